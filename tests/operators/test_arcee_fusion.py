"""Arcee Fusion takes the entries whose change, in a row whose softmax changed, stands out."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

arcee_fusion = functools.partial(operating.merge, "arcee_fusion")


def _softmax(row: list[float]) -> list[float]:
    powers = [math.exp(entry) for entry in row]
    return [power / sum(powers) + 1e-8 for power in powers]


def _published(first: list[list[float]], second: list[list[float]]) -> list[list[bool]]:
    """Which entries are taken, worked out one by one."""
    scores = []
    for old, new in zip(first, second, strict=True):
        pairs = zip(_softmax(old), _softmax(new), strict=True)
        divergence = sum(after * math.log(after / before) for before, after in pairs)
        scores.append([abs(b - a) * divergence for a, b in zip(old, new, strict=True)])
    ranked = sorted(score for row in scores for score in row)
    low, median, high = (ranked[int(part * (len(ranked) - 1))] for part in (0.25, 0.5, 0.75))
    return [[score >= median + 1.5 * (high - low) for score in row] for row in scores]


@given(rows=st.integers(1, 6), length=st.integers(2, 12), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_it_takes_the_entries_whose_importance_stands_out(
    rows: int, length: int, seed: int
) -> None:
    first, second = stack = operating.draw((2, rows, length), seed, torch.float64)
    taken = torch.tensor(_published(first.tolist(), second.tolist()))
    assert torch.allclose(arcee_fusion(stack), torch.where(taken, second, first))


def test_of_over_a_million_entries_every_one_counts() -> None:
    """In one row importance grows with the change: 0, 1, 2 and so on over the quartiles."""
    changes = torch.arange(1_200_001, dtype=torch.float64) / 1_200_000
    merged = arcee_fusion(torch.stack([torch.zeros_like(changes), changes]))
    # The median is 1/2 and the quartiles are 1/2 apart: only what is over 5/4 stands out.
    assert not merged.any()
    changes[-1] = 1.3
    merged = arcee_fusion(torch.stack([torch.zeros_like(changes), changes]))
    assert merged.nonzero().tolist() == [[1_200_000]]


def test_a_model_with_itself_is_itself() -> None:
    first = operating.draw((8, 9))
    assert torch.equal(arcee_fusion(torch.stack([first, first])), first)


@pytest.mark.parametrize("row", [0, 1])
def test_a_source_that_has_no_number_stays_visible(row: int) -> None:
    stack = operating.draw((2, 8, 9))
    stack[row, 3, 4] = torch.nan
    assert not arcee_fusion(stack).isfinite().all()


@pytest.mark.parametrize("shape", [(3, 50_003), (50_003, 3)], ids=str)
def test_the_number_of_threads_does_not_matter_to_any_shape(
    shape: tuple[int, ...],
    same_bits: Callable[[Tensor, Tensor], bool],
    threads: Callable[[int], None],
) -> None:
    stack = operating.draw((2, *shape), dtype=torch.float64)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(arcee_fusion(stack))
    assert all(same_bits(result, results[0]) for result in results)
