"""SCE selects by variance, weighs by energy and erases the minority's signs."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

sce = functools.partial(operating.merge, "sce")


def _published(deltas: list[list[float]], density: float, *, masked: bool) -> list[float]:
    """Section 3.3, entry by entry; the implementations disagree on what is not selected."""
    everything = columns = [list(column) for column in zip(*deltas, strict=True)]
    if density < 1:
        variances = [statistics.pvariance(column) for column in columns]
        kept = int(density * sum(variance > 0 for variance in variances))
        best = sorted(range(len(columns)), key=lambda k: -variances[k])[:kept]
        columns = [c if k in best else [0.0] * len(deltas) for k, c in enumerate(columns)]
    energies = [sum(column[row] ** 2 for column in columns) for row in range(len(deltas))]
    total = sum(energies)
    if total == 0:
        energies, total = [1.0] * len(deltas), len(deltas)
    merged = []
    for column in columns if masked else everything:
        plus = sum(column) >= 0
        pairs = [(e, w / total) for e, w in zip(column, energies, strict=True)]
        agreeing = [(e, w) for e, w in pairs if (e > 0 if plus else e < 0)]
        share = max(sum(w for _, w in agreeing), 1e-6)
        merged.append(sum(e * w for e, w in agreeing) / share)
    return merged


@pytest.mark.parametrize("name", ["sce", "sce_unmasked"])
@given(
    count=st.integers(2, 5),
    size=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
)
@settings(max_examples=100)
def test_it_is_what_the_paper_says(
    name: str, count: int, size: int, seed: int, density: float
) -> None:
    deltas = operating.draw((count, size), seed, torch.float64)
    merged = operating.merge(name, deltas, density=density)
    expected = _published(deltas.tolist(), density, masked=name == "sce")
    assert merged.tolist() == pytest.approx(expected, abs=1e-12)


def test_entries_on_which_all_sources_agree_do_not_vary() -> None:
    """The sum of three equal numbers, divided by 3, may be another number."""
    deltas = operating.draw((1, 40)).expand(3, 40)
    assert (deltas.sum(0) / 3 != deltas[0]).any()
    assert not sce(deltas, density=0.5).any()


def test_a_fraction_of_a_whole_number_of_entries_is_that_number() -> None:
    """In double precision 0.29 times 100 is less than 29."""
    deltas = operating.draw((2, 100))
    assert sce(deltas, density=0.29).count_nonzero() == 29


def test_task_vectors_as_small_as_those_of_fine_tunes_are_weighed_by_their_energy() -> None:
    """Their mean squares are under 1e-6, where mergekit weighs all alike."""
    deltas = operating.draw((2, 200), dtype=torch.float64) * torch.tensor([[1.0], [3.0]])
    small = sce(deltas * 2.0**-20, density=1.0)
    assert torch.allclose(small * 2.0**20, sce(deltas, density=1.0))


def test_a_fraction_of_the_entries_that_differ_is_selected() -> None:
    deltas = operating.draw((2, 1000))
    deltas[1, :600] = deltas[0, :600]
    merged = sce(deltas, density=0.5)
    assert not merged[:600].any()
    assert merged[600:].count_nonzero() == 200


def test_at_full_density_entries_that_do_not_differ_are_merged_too() -> None:
    deltas = operating.draw((1, 50)).repeat(3, 1)
    assert torch.allclose(sce(deltas, density=1.0), deltas[0])


def test_the_weights_of_the_sources_add_up_to_one() -> None:
    found = operating.measured("sce", operating.draw((3, 70_000)), density=0.3)
    assert found[1:].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["sce", "sce_unmasked"])
def test_an_entry_that_is_no_number_stays_visible(name: str) -> None:
    deltas = operating.draw((3, 50))
    deltas[1, 7] = torch.nan
    assert operating.merge(name, deltas, density=1.0)[7].isnan()


def test_the_number_of_threads_does_not_matter_to_the_weights(
    same_bits: Callable[[Tensor, Tensor], bool], threads: Callable[[int], None]
) -> None:
    deltas = operating.draw((2, 150_001), dtype=torch.float64)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(operating.measured("sce", deltas, density=0.5))
    assert all(same_bits(result, results[0]) for result in results)
