"""NearSwap takes the second source where both are near."""

from __future__ import annotations

import functools

import operating
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

nearswap = functools.partial(operating.merge, "nearswap")
entries = st.floats(-10, 10)


@given(first=entries, second=entries, t=st.floats(0, 2))
def test_an_entry_moves_by_t_and_no_farther_than_the_second_source(
    first: float, second: float, t: float
) -> None:
    merged = nearswap(torch.tensor([[first], [second]], dtype=torch.float64), t=t)
    moved = min(t, abs(second - first))
    way = 1.0 if second > first else -1.0
    # Nearer than 1e-6 it counts as being 1e-6 away.
    assert merged.item() == pytest.approx(first + way * moved, rel=1e-9, abs=1e-6)


def test_equal_entries_stay_even_if_nothing_is_near() -> None:
    assert nearswap([[1.5, 2.0], [1.5, 2.0]], t=0.0).tolist() == [1.5, 2.0]


def test_far_enough_everything_is_replaced() -> None:
    stack = operating.draw((2, 200))
    assert torch.allclose(nearswap(stack, t=100.0), stack[1])
