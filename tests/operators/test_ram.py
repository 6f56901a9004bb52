"""RAM averages over those that changed an entry; RAM+ stretches what one alone changed."""

from __future__ import annotations

import functools

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

ram = functools.partial(operating.merge, "ram")
ramplus_tl = functools.partial(operating.merge, "ramplus_tl")


def _published(deltas: list[list[float]], epsilon: float, r: float, alpha: float) -> list[float]:
    """Entry by entry: shared changes are averaged, unique ones multiplied by their factor."""
    active = [[abs(entry) > epsilon for entry in row] for row in deltas]
    times = [sum(column) for column in zip(*active, strict=True)]
    factors = []
    for row in active:
        shared = sum(on and n > 1 for on, n in zip(row, times, strict=True))
        unique = sum(on and n == 1 for on, n in zip(row, times, strict=True))
        factors.append(1 + r * min(shared / unique, alpha) if unique else 1.0)
    merged = []
    for k, n in enumerate(times):
        taken = [(row[k], f) for row, on, f in zip(deltas, active, factors, strict=True) if on[k]]
        merged.append(
            taken[0][0] * taken[0][1] if n == 1 else sum(e for e, _ in taken) / max(n, 1)
        )
    return merged


@given(
    count=st.integers(1, 5),
    size=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    epsilon=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    r=st.sampled_from([0.0, 0.1, 0.5]),
    alpha=st.sampled_from([0.0, 0.2, 3.0]),
)
@settings(max_examples=100)
def test_it_is_what_the_paper_says(
    count: int, size: int, seed: int, epsilon: float, r: float, alpha: float
) -> None:
    deltas = operating.draw((count, size), seed, torch.float64)
    merged = ramplus_tl(deltas, epsilon=epsilon, r=r, alpha=alpha)
    assert merged.tolist() == pytest.approx(_published(deltas.tolist(), epsilon, r, alpha))
    plain = ram(deltas, epsilon=epsilon)
    assert plain.tolist() == pytest.approx(_published(deltas.tolist(), epsilon, 0.0, 0.0))


def test_sparse_changes_that_do_not_meet_are_not_diluted() -> None:
    stack = operating.draw((3, 90))
    for row in range(3):
        stack[row, torch.arange(90) % 3 != row] = 0
    assert torch.equal(ram(stack, epsilon=0.0), stack.sum(0))


def test_the_overlap_is_counted_over_the_whole_tensor() -> None:
    stack = operating.draw((2, 70_000))
    stack[1, :35_000] = 0
    found = operating.measured("ramplus_tl", stack, epsilon=0.0)
    assert found.tolist() == [1.0, 35_000.0]
