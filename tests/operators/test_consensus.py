"""Consensus keeps the entries of the sum that several sources hold to be theirs."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def _published(deltas: list[list[float]], threshold: list[float], k: float) -> list[float]:
    """Sections 4 and 5, entry by entry."""
    merged = []
    for column in zip(*deltas, strict=True):
        total = sum(column)
        per_source = zip(column, threshold, strict=True)
        needed = [abs(entry) >= strict * abs(total - entry) for entry, strict in per_source]
        merged.append(total if sum(needed) >= k else 0.0)
    return merged


@given(
    data=st.data(),
    sources=st.integers(1, 5),
    size=st.integers(1, 20),
    k=st.integers(0, 6),
)
@settings(max_examples=100)
def test_it_is_what_the_paper_says(data: st.DataObject, sources: int, size: int, k: int) -> None:
    row = st.lists(st.integers(-40, 40).map(float), min_size=size, max_size=size)
    deltas = data.draw(st.lists(row, min_size=sources, max_size=sources))
    # Eighths of whole numbers are exact, so that no entry is close to a threshold.
    eighths = st.integers(0, 12).map(lambda n: n / 8)
    threshold = data.draw(st.lists(eighths, min_size=sources, max_size=sources))
    stack = torch.tensor(deltas, dtype=torch.float64)
    merged = operating.merge("consensus", stack, threshold=threshold, k=float(k), scale=1.0)
    assert merged.tolist() == _published(deltas, threshold, k)


@pytest.mark.parametrize(("k", "expected"), [(0.5, 6.0), (1.0, 6.0), (1.5, 0.0)])
def test_a_fraction_of_a_source_asks_for_the_next_one(k: float, expected: float) -> None:
    merged = operating.merge("consensus", [[5.0], [1.0]], threshold=1.0, k=k, scale=1.0)
    assert merged.tolist() == [expected]


def test_an_entry_that_is_no_number_is_not_hidden() -> None:
    deltas = torch.tensor([[1.0, torch.nan], [1.0, 1.0]])
    assert operating.merge("consensus", deltas, k=2.0).isnan().any()
