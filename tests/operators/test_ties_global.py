"""TIES over a whole model is what the authors' code does with one long vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from torch import Tensor

Model = list[list[float]]
"""One flat task vector per source."""


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _trimmed(delta: list[float], density: float) -> list[float]:
    dropped = len(delta) - int(density * len(delta))
    if dropped == 0:
        return delta
    least = sorted(map(abs, delta))[dropped - 1]
    return [entry if abs(entry) >= least else 0.0 for entry in delta]


def _published(model: Model, density: list[float], merge: str, elect: str) -> list[float]:
    rows = [_trimmed(delta, d) for delta, d in zip(model, density, strict=True)]
    columns = [*zip(*rows, strict=True)]
    votes = [_sign(sum(map(_sign, c) if elect == "count" else c)) for c in columns]
    majority = 1 if sum(votes) >= 0 else -1
    merged = []
    for column, vote in zip(columns, votes, strict=True):
        winners = [entry for entry in column if entry and _sign(entry) == (vote or majority)]
        largest = max(winners, key=abs, default=0.0)
        total = sum(winners)
        mean = total / max(1, len(winners))
        merged.append({"mean": mean, "sum": total, "max": largest}[merge])
    return merged


@given(
    data=st.data(),
    sources=st.integers(1, 4),
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=3).filter(any),
    merge=st.sampled_from(["mean", "sum", "max"]),
    elect=st.sampled_from(["sum", "count"]),
)
@settings(max_examples=100)
def test_it_is_what_the_code_does_with_all_tensors_in_one_vector(
    data: st.DataObject, sources: int, sizes: list[int], merge: str, elect: str
) -> None:
    # Halves, many of them equal, so that votes are drawn and entries tie at the threshold.
    entry = st.integers(-6, 6).map(lambda n: n / 2)
    row = st.lists(entry, min_size=sum(sizes), max_size=sum(sizes))
    model = data.draw(st.lists(row, min_size=sources, max_size=sources))
    density = data.draw(st.lists(st.floats(0.05, 1), min_size=sources, max_size=sources))
    stacks = torch.tensor(model, dtype=torch.float64).split(sizes, dim=1)
    arguments = {"density": density, "merge": merge, "elect": elect, "scale": 1.0}
    merged = [operating.merge("ties_global", s, stacks=stacks, **arguments) for s in stacks]
    expected = _published(model, density, merge, elect)
    assert torch.cat(merged).tolist() == pytest.approx(expected)


def _two_tensors() -> list[Tensor]:
    return [torch.tensor([[1.0, -2.0]]), torch.tensor([[30.0, -40.0]])]


def test_a_tensor_of_small_entries_is_trimmed_away() -> None:
    small, large = stacks = _two_tensors()
    merged = [
        operating.merge("ties_global", each, stacks=stacks, density=0.25, scale=1.0)
        for each in (small, large)
    ]
    assert [each.tolist() for each in merged] == [[0.0, 0.0], [30.0, -40.0]]


def test_density_zero_keeps_nothing() -> None:
    small, large = stacks = _two_tensors()
    for each in (small, large):
        merged = operating.merge("ties_global", each, stacks=stacks, density=0.0)
        assert merged.tolist() == [0.0, 0.0]


def test_a_draw_goes_with_the_majority_of_other_tensors_too() -> None:
    drawn, others = torch.tensor([[2.0], [-3.0]]), torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    arguments = {"density": 1.0, "elect": "count", "scale": 1.0}
    alone = operating.merge("ties_global", drawn, stacks=[drawn], **arguments)
    together = operating.merge("ties_global", drawn, stacks=[drawn, others], **arguments)
    assert (alone.item(), together.item()) == (2.0, -3.0)


def test_an_entry_that_is_no_number_is_not_hidden() -> None:
    deltas = torch.tensor([[1.0, torch.nan, 3.0, 2.0]])
    assert operating.merge("ties_global", deltas, density=0.25).isnan().any()
