"""Breadcrumbs keep the middle of the magnitudes, as many as the density says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def _published(delta: list[float], density: float, gamma: float) -> list[float]:
    """Section 3, entry by entry. The magnitudes must all differ."""
    rising = sorted(delta, key=abs)
    kept, outliers = int(density * len(delta)), int(gamma * len(delta))
    first = max(0, len(delta) - kept - outliers)
    middle = rising[first : first + kept] if density < 1 else rising
    return [entry if entry in middle else 0.0 for entry in delta]


@given(
    row=st.lists(st.integers(-999, 999).filter(bool), min_size=1, max_size=60, unique_by=abs),
    density=st.floats(0, 1),
    gamma=st.floats(0, 1),
)
@settings(max_examples=100)
def test_it_is_what_the_paper_says(row: list[int], density: float, gamma: float) -> None:
    delta = [entry / 8 for entry in row]
    merged = operating.merge(
        "breadcrumbs", [delta], weight=1.0, density=density, gamma=gamma, scale=1.0
    )
    assert merged.tolist() == _published(delta, density, gamma)


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_every_source_has_a_density_and_a_gamma_of_its_own(name: str) -> None:
    deltas = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]
    merged = operating.merge(
        name, deltas, weight=1.0, density=(0.5, 0.25), gamma=(0.25, 0.0), scale=1.0
    )
    assert merged.tolist() == [0, 2, 3, 4]


def test_a_large_tensor_keeps_the_density(draw: Callable[..., Tensor]) -> None:
    deltas = draw((1, 300, 201))
    merged = operating.merge("breadcrumbs", deltas, weight=1.0, density=0.4, gamma=0.02)
    magnitudes = deltas.abs()[0][merged != 0]
    ranked = deltas.abs().reshape(-1).sort().values
    assert merged.count_nonzero() == 24_120
    assert magnitudes.max() == ranked[60_300 - 1_206 - 1]


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_an_entry_that_is_no_number_is_not_hidden(name: str) -> None:
    deltas = torch.tensor([[1.0, torch.nan, 3.0, 2.0]])
    assert operating.merge(name, deltas, weight=1.0, density=0.5, gamma=0.25).isnan().any()
