"""NuSLERP goes along the arc around the base or the origin, of tensors or of their lines."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

nuslerp = functools.partial(operating.merge, "nuslerp")
nuslerp_lines = functools.partial(operating.merge, "nuslerp_lines")
weights = st.tuples(st.floats(0.1, 3), st.floats(0.1, 3))


def _walk(first: list[float], second: list[float], weight: tuple[float, float]) -> list[float]:
    """Turn the first vector's direction towards the second's in the plane of both.

    Lengths go from one to the other so that the vectors themselves take part with the sines of
    the angles left and gone, the way that Shoemake's formula has for vectors of any length.
    """
    t = weight[1] / sum(weight)
    lengths = [math.sqrt(sum(entry**2 for entry in row)) for row in (first, second)]
    product = sum(a * b for a, b in zip(first, second, strict=True))
    angle = math.acos(max(-1.0, min(1.0, product / lengths[0] / lengths[1])))
    left, gone = (math.sin(part * angle) / math.sin(angle) for part in (1 - t, t))
    return [left * a + gone * b for a, b in zip(first, second, strict=True)]


@given(weight=weights, seed=st.integers(0, 10**6), size=st.integers(2, 20))
@settings(max_examples=50)
def test_it_is_shoemake_s_formula_with_the_weights_ratio(
    weight: tuple[float, float], seed: int, size: int
) -> None:
    first, second = stack = operating.draw((2, size), seed, torch.float64)
    merged = nuslerp(stack, weight=weight, around="origin")
    expected = _walk(first.tolist(), second.tolist(), weight)
    assert merged.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@given(weight=weights, seed=st.integers(0, 10**6), along=st.sampled_from(["rows", "columns"]))
@settings(max_examples=25)
def test_lines_are_merged_as_if_each_were_a_tensor(
    weight: tuple[float, float], seed: int, along: str
) -> None:
    stack = operating.draw((2, 3, 4), seed, torch.float64)
    merged = nuslerp_lines(stack, weight=weight, around="origin", along=along)
    axis = 0 if along == "rows" else 1
    for index, line in enumerate(merged.unbind(axis)):
        alone = nuslerp(stack.select(axis + 1, index), weight=weight, around="origin")
        assert torch.allclose(line, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("merge", [nuslerp, nuslerp_lines], ids=["tensor", "rows"])
def test_around_the_base_it_merges_task_vectors(merge: Callable[..., Tensor]) -> None:
    stack, base = operating.draw((2, 6, 5)), operating.draw((6, 5), 1)
    weight = (0.3, 0.9)
    around_base = merge(stack, weight=weight, around="base", base=base)
    deltas = merge(stack - base, weight=weight, around="origin")
    assert torch.equal(around_base, deltas + base)


@pytest.mark.parametrize("merge", [nuslerp, nuslerp_lines], ids=["tensor", "rows"])
def test_around_the_origin_the_base_takes_no_part(merge: Callable[..., Tensor]) -> None:
    stack = operating.draw((2, 6, 5))
    results = [
        merge(stack, weight=(1, 2), around="origin", base=operating.draw((6, 5), seed))
        for seed in (1, 2)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("row", [0, 1])
def test_all_the_weight_on_one_source_is_that_source(row: int) -> None:
    stack, weight = operating.draw((2, 300)), [0.0, 0.0]
    weight[row] = 0.7
    assert torch.equal(nuslerp(stack, weight=weight, around="origin"), stack[row])


def test_between_unit_vectors_the_norm_stays_one() -> None:
    stack = torch.nn.functional.normalize(operating.draw((2, 300), dtype=torch.float64))
    assert nuslerp(stack, weight=(1, 3), around="origin").norm().item() == pytest.approx(1)


@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_on_one_line_there_is_no_arc(factor: float) -> None:
    first = operating.draw((50,))
    stack = torch.stack([first, factor * first])
    expected = first * (0.75 + 0.25 * factor)
    assert torch.allclose(nuslerp(stack, weight=(3, 1), around="origin"), expected, atol=1e-6)


def test_next_to_one_line_the_arc_is_as_good_as_straight() -> None:
    first, other = operating.draw((2, 50), dtype=torch.float64)
    for step in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        stack = torch.stack([first, first + step * other])
        straight = first + 0.25 * step * other
        merged = nuslerp(stack, weight=(3, 1), around="origin")
        assert torch.allclose(merged, straight, rtol=0, atol=step**2)


@pytest.mark.parametrize("name", ["nuslerp", "nuslerp_lines"])
def test_weights_that_cancel_have_no_ratio(name: str) -> None:
    check = find_operator(name).check
    assert check is not None
    with pytest.raises(MergeError, match=r"\[0\.5, -0\.5\] add up to 0; .* not be zero"):
        check(weight=(0.5, -0.5), around="base")
    check(weight=(0.5, -0.4), around="base")


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_number_of_threads_does_not_matter_to_lines(
    along: str, same_bits: Callable[[Tensor, Tensor], bool], threads: Callable[[int], None]
) -> None:
    stack = operating.draw((2, 301, 300), dtype=torch.float64)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(nuslerp_lines(stack, weight=(1, 2), along=along))
    assert all(same_bits(result, results[0]) for result in results)
