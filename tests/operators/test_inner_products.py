"""Inner products are exact to float64 and do not depend on threads or on where rows are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.inner_products import CHUNK, gram_around, gram_of_sources, inner_products
from evomerge.operators.measure import take_measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.operators.measure import Measure


def gram(measure: Measure, stack: Tensor, **arguments: Any) -> Tensor:
    """Measure a stack."""
    return take_measure(measure, stack, arguments)


@given(
    sources=st.integers(1, 4), count=st.integers(0, 6), length=st.integers(0, 9), data=st.data()
)
@settings(max_examples=50)
def test_they_are_the_sums_of_products_of_entries(
    sources: int, count: int, length: int, data: st.DataObject
) -> None:
    vectors = operating.draw((sources, count, length), data.draw(st.integers(0, 99)))
    found = inner_products(vectors)
    assert found.shape == (count, sources, sources)
    for n in range(count):
        for a in range(sources):
            for b in range(sources):
                products = zip(vectors[a, n].tolist(), vectors[b, n].tolist(), strict=True)
                assert found[n, a, b].item() == pytest.approx(sum(x * y for x, y in products))


@pytest.mark.parametrize(
    "shape", [(2, 1, 2 * CHUNK + 5), (2, 3, CHUNK + 1), (2, 3 * CHUNK, 1), (2, 400, 300)], ids=str
)
def test_pieces_leave_nothing_out(shape: tuple[int, ...]) -> None:
    vectors = operating.draw(shape, dtype=torch.float64)
    expected = torch.einsum("anl,bnl->nab", vectors, vectors)
    assert torch.allclose(inner_products(vectors), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1, 150_001), (2, 150_001, 1), (2, 3, 50_003)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_the_number_of_threads_does_not_matter(
    shape: tuple[int, ...],
    turned: bool,
    same_bits: Callable[[Tensor, Tensor], bool],
    threads: Callable[[int], None],
) -> None:
    vectors = operating.draw(shape, dtype=torch.float64)
    vectors = vectors.mT if turned else vectors
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(inner_products(vectors))
    assert all(same_bits(result, results[0]) for result in results)


def test_a_small_entry_does_not_drown_beside_a_large_one() -> None:
    """4096 squared and 1/64 squared are 36 bits apart, 12 more than float32 holds."""
    vectors = torch.tensor([[[4096.0, 1 / 64]]])
    assert inner_products(vectors).tolist() == [[[2.0**24 + 2.0**-12]]]


def test_tensors_of_any_shape_are_vectors() -> None:
    stack = operating.draw((3, 4, 5))
    flat = gram(gram_of_sources, stack.reshape(3, 20))
    assert torch.equal(gram(gram_of_sources, stack), flat)


def test_they_are_seen_from_the_base_or_from_the_origin() -> None:
    stack, base = operating.draw((3, 4, 5)), operating.draw((4, 5), 1)
    around_base = gram(gram_around, stack, around="base", base=base)
    assert torch.equal(around_base, gram(gram_of_sources, stack - base))
    around_origin = gram(gram_around, stack, around="origin", base=base)
    assert torch.equal(around_origin, gram(gram_of_sources, stack))
