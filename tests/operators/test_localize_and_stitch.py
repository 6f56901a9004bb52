"""Localize-and-Stitch averages over the sources whose mask has an entry."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def _published(model: list[list[float]], density: list[float]) -> list[float]:
    """Sections 3.3 and 3.4, entry by entry. The magnitudes of a source must all differ."""
    masks = []
    for delta, d in zip(model, density, strict=True):
        largest = sorted(delta, key=abs, reverse=True)[: max(1, int(d * len(delta)))]
        masks.append([entry in largest for entry in delta])
    merged = []
    for column, mask in zip(zip(*model, strict=True), zip(*masks, strict=True), strict=True):
        inside = [entry for entry, is_in in zip(column, mask, strict=True) if is_in]
        merged.append(sum(inside) / max(1, len(inside)))
    return merged


@given(
    data=st.data(),
    sources=st.integers(1, 4),
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=3).filter(any),
)
@settings(max_examples=60)
def test_it_is_what_the_paper_says_of_all_tensors_together(
    data: st.DataObject, sources: int, sizes: list[int]
) -> None:
    size = sum(sizes)
    row = st.lists(st.integers(-99, 99).filter(bool), min_size=size, max_size=size, unique_by=abs)
    model = data.draw(st.lists(row, min_size=sources, max_size=sources))
    density = data.draw(st.lists(st.floats(0.01, 1), min_size=sources, max_size=sources))
    stacks = torch.tensor(model, dtype=torch.float64).split(sizes, dim=1)
    merged = [
        operating.merge("localize_and_stitch", s, stacks=stacks, density=density, scale=1.0)
        for s in stacks
    ]
    assert torch.cat(merged).tolist() == pytest.approx(_published(model, density))


def test_a_source_with_few_entries_does_not_dilute_the_others() -> None:
    """A mask of half the entries has room for zeros; they are not in it."""
    deltas = [[4.0, 3.0, 2.0, 1.0], [8.0, 0.0, 0.0, 0.0]]
    merged = operating.merge("localize_and_stitch", deltas, density=0.5, scale=1.0)
    assert merged.tolist() == [6.0, 3.0, 0.0, 0.0]


def test_density_zero_keeps_nothing() -> None:
    merged = operating.merge("localize_and_stitch", [[4.0, 3.0]], density=0.0)
    assert merged.tolist() == [0.0, 0.0]


def test_an_entry_that_is_no_number_is_not_hidden() -> None:
    deltas = torch.tensor([[1.0, torch.nan, 3.0, 2.0]])
    assert operating.merge("localize_and_stitch", deltas, density=0.25).isnan().any()
