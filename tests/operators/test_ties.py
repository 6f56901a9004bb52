"""TIES trims, elects a sign and merges what agrees, as published and as mergekit does."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ties = functools.partial(operating.merge, "ties", scale=1.0)

TOY = torch.tensor([[4.0, -1.0, 0.5, -3.0], [2.0, 3.0, -0.2, -1.0]])


def _trimmed(delta: list[float], density: float) -> list[float]:
    """Section 4, step 1. The magnitudes must all differ."""
    kept = max(1, int(density * len(delta))) if density > 0 else 0
    largest = sorted(delta, key=abs, reverse=True)[:kept]
    return [entry if entry in largest else 0.0 for entry in delta]


def _published(
    deltas: list[list[float]], weight: list[float], density: list[float], *, normalize: bool
) -> list[float]:
    """Section 4 with weighted votes, entry by entry."""
    rows = [_trimmed(delta, d) for delta, d in zip(deltas, density, strict=True)]
    merged = []
    for entries in zip(*rows, strict=True):
        votes = [(w, w * entry) for w, entry in zip(weight, entries, strict=True)]
        plus = sum(vote for _, vote in votes) >= 0
        winners = [(w, v) for w, v in votes if v and (v > 0) == plus]
        total = sum(w for w, _ in winners) if normalize else 1.0
        merged.append(sum(v for _, v in winners) / (total or 1.0))
    return merged


@pytest.mark.parametrize(
    ("density", "weight", "expected"),
    [
        # The official K = 50 % keeps floor(K d) + 1 = 3 of 4 entries, which is density 0.75 here.
        pytest.param(0.75, (1.0, 1.0), [3, 3, 0, -2], id="official K=50%"),
        pytest.param(1.0, (1.0, 1.0), [3, 3, 0.5, -2], id="official K=100%"),
        pytest.param(0.5, (0.6, 0.4), [3.2, 3, 0, -3], id="mergekit density 0.5"),
    ],
)
def test_the_toys_of_the_specification_come_out(
    density: float, weight: tuple[float, ...], expected: list[float]
) -> None:
    """Section 4; the toy is two task vectors of four entries."""
    merged = ties(TOY, weight=weight, density=(density, density))
    assert merged.tolist() == pytest.approx(expected)


def test_without_normalising_agreeing_entries_are_added_up() -> None:
    merged = ties(TOY, weight=(1.0, 1.0), density=(1.0, 1.0), normalize=False)
    assert merged.tolist() == pytest.approx([6, 3, 0.5, -4])


def test_the_scale_multiplies_the_result() -> None:
    whole = ties(TOY, weight=(0.6, 0.4), density=(0.5, 0.5))
    scaled = ties(TOY, weight=(0.6, 0.4), density=(0.5, 0.5), scale=0.25)
    assert torch.equal(scaled, whole * 0.25)


def test_a_draw_elects_plus() -> None:
    draw = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    assert ties(draw, weight=(1.0, 1.0), density=(1.0, 1.0)).tolist() == [2.0, 2.0]


def test_one_source_of_density_one_gives_its_task_vector(draw: Callable[..., Tensor]) -> None:
    deltas = draw((1, 500))
    assert torch.equal(ties(deltas, weight=(1.0,), density=(1.0,)), deltas[0])


def test_a_normalised_weight_of_a_single_source_cancels_out(draw: Callable[..., Tensor]) -> None:
    deltas = draw((1, 500))
    assert torch.allclose(ties(deltas, weight=(0.3,), density=(1.0,)), deltas[0])


def test_identical_sources_give_the_trimmed_source() -> None:
    merged = ties(TOY[:1].repeat(3, 1), weight=(1.0,) * 3, density=(0.5,) * 3)
    assert merged.tolist() == [4.0, 0.0, 0.0, -3.0]


def test_duplicating_all_sources_changes_nothing(draw: Callable[..., Tensor]) -> None:
    deltas = draw((2, 200), dtype=torch.float64)
    once = ties(deltas, weight=(0.6, 0.4), density=(0.5, 0.8))
    twice = ties(deltas.repeat(2, 1), weight=(0.6, 0.4) * 2, density=(0.5, 0.8) * 2)
    assert torch.allclose(once, twice)


def test_entries_that_no_source_keeps_are_zero() -> None:
    merged = ties(TOY, weight=(1.0, 1.0), density=(0.25, 0.25))
    assert merged.tolist() == [4.0, 3.0, 0.0, 0.0]


def test_entries_as_large_as_the_smallest_one_kept_are_kept_too() -> None:
    merged = ties([[2.0, -1.0, 1.0, 0.5]], weight=1.0, density=0.5)
    assert merged.tolist() == [2.0, -1.0, 1.0, 0.0]


@given(
    data=st.data(),
    sources=st.integers(1, 5),
    size=st.integers(1, 20),
    normalize=st.booleans(),
)
@settings(max_examples=100)
def test_it_is_what_the_paper_says(
    data: st.DataObject, sources: int, size: int, normalize: bool
) -> None:
    # Weights that are positive keep a sum of agreeing ones away from zero.
    per_source = {"min_size": sources, "max_size": sources}
    weight = data.draw(st.lists(st.floats(0.1, 2.0), **per_source))
    density = data.draw(st.lists(st.floats(0.0, 1.0), **per_source))
    # Quarters, and sums of weights times quarters, leave no doubt about a sign close to zero.
    weight = [round(w * 4) / 4 or 0.25 for w in weight]
    row = st.lists(
        st.integers(-400, 400).filter(bool), min_size=size, max_size=size, unique_by=abs
    )
    deltas = [[entry / 4 for entry in data.draw(row)] for _ in range(sources)]
    merged = ties(
        torch.tensor(deltas, dtype=torch.float64),
        weight=tuple(weight),
        density=tuple(density),
        normalize=normalize,
    )
    expected = _published(deltas, weight, density, normalize=normalize)
    assert merged.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_float64_task_vectors_are_normalised_in_float64() -> None:
    """0.1 is not the same number in float32 and in float64."""
    merged = ties(
        torch.tensor([[3.0], [1.0]], dtype=torch.float64), weight=(0.1, 0.7), density=(1.0, 1.0)
    )
    assert merged.item() == pytest.approx((0.1 * 3 + 0.7) / (0.1 + 0.7), rel=1e-15)
