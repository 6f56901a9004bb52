"""Multi-SLERP points where the sources point on average and is as long as they are on average."""

from __future__ import annotations

import functools
import math

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.operators.registry import find_operator

multislerp = functools.partial(operating.merge, "multislerp")


def _published(rows: list[list[float]], weight: list[float]) -> list[float]:
    """Mean direction, mean tangent, a step along it, mean length; entry by entry."""
    size, total = len(rows[0]), sum(weight)
    shares = [one / total for one in weight]
    lengths = [math.hypot(*row) for row in rows]
    units = [[e / (length + 1e-8) for e in row] for row, length in zip(rows, lengths, strict=True)]
    mean = [sum(w * unit[k] for w, unit in zip(shares, units, strict=True)) for k in range(size)]
    norm = math.hypot(*mean)
    mean = [entry / norm for entry in mean]
    along = [sum(a * b for a, b in zip(unit, mean, strict=True)) for unit in units]
    tangent = [
        sum(w * (u[k] - p * mean[k]) for w, u, p in zip(shares, units, along, strict=True))
        for k in range(size)
    ]
    step = math.hypot(*tangent) + 1e-8
    length = sum(w * one for w, one in zip(shares, lengths, strict=True))
    return [
        length * (m * math.cos(step) + t * math.sin(step) / step)
        for m, t in zip(mean, tangent, strict=True)
    ]


@given(
    weight=st.lists(st.floats(0.1, 3), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    size=st.integers(2, 20),
)
@settings(max_examples=50)
def test_it_is_the_published_procedure(weight: list[float], seed: int, size: int) -> None:
    stack = operating.draw((len(weight), size), seed, torch.float64) + 0.5
    merged = multislerp(stack, weight=weight, around="origin")
    assert merged.tolist() == pytest.approx(_published(stack.tolist(), weight), rel=1e-5, abs=1e-6)


def test_it_is_as_long_as_the_sources_are_on_average() -> None:
    stack = operating.draw((3, 100), dtype=torch.float64)
    merged = multislerp(stack, weight=(1, 2, 3), around="origin")
    lengths = stack.norm(dim=1)
    average = (lengths[0] + 2 * lengths[1] + 3 * lengths[2]) / 6
    assert merged.norm().item() == pytest.approx(average.item())


def test_around_the_base_it_merges_task_vectors() -> None:
    stack, base = operating.draw((3, 6, 5)), operating.draw((6, 5), 1)
    around_base = multislerp(stack, weight=(1, 2, 3), around="base", base=base)
    assert torch.equal(
        around_base, multislerp(stack - base, weight=(1, 2, 3), around="origin") + base
    )


def test_directions_that_cancel_out_leave_the_weighted_sum() -> None:
    stack = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert multislerp(stack, weight=(1, 1), around="origin").tolist() == [1.0, 0.0]


@pytest.mark.parametrize("around", ["base", "origin"])
def test_one_source_is_itself_at_whatever_weight(around: str) -> None:
    stack = operating.draw((1, 50), dtype=torch.float64)
    merged = multislerp(stack, weight=0.3, around=around)
    assert torch.allclose(merged, stack[0], rtol=1e-6)


def test_a_source_of_zeros_shortens_and_does_not_turn() -> None:
    stack = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert multislerp(stack, weight=(1, 1), around="origin").tolist() == pytest.approx([1.5, 2.0])


def test_weights_that_cancel_cannot_be_normalized() -> None:
    check = find_operator("multislerp").check
    assert check is not None
    with pytest.raises(MergeError, match=r"weight: \[1, -1\] add up to 0; cannot normalize\. .*"):
        check(weight=(1, -1), normalize=True, around="base")
    check(weight=(1, -1), normalize=False, around="base")
