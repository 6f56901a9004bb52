"""Model Stock follows the average as far as the angle between the task vectors allows."""

from __future__ import annotations

import functools
import itertools
import math

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

model_stock = functools.partial(operating.merge, "model_stock")
model_stock_rows = functools.partial(operating.merge, "model_stock_rows")


def _published(deltas: list[list[float]]) -> list[float]:
    """Section 4: `t = N cos / (1 + (N - 1) cos)` times the average."""
    count = len(deltas)
    pairs = itertools.combinations(deltas, 2)
    cosines = [
        sum(a * b for a, b in zip(first, second, strict=True))
        / (math.hypot(*first) * math.hypot(*second))
        for first, second in pairs
    ]
    cosine = sum(cosines) / len(cosines)
    ratio = count * cosine / (1 + (count - 1) * cosine)
    return [ratio * sum(column) / count for column in zip(*deltas, strict=True)]


@given(count=st.integers(2, 5), size=st.integers(2, 20), seed=st.integers(0, 10**6))
@settings(max_examples=50)
def test_it_is_what_the_paper_says(count: int, size: int, seed: int) -> None:
    # All of one sign, so that no angle is beyond a right one.
    deltas = operating.draw((count, size), seed, torch.float64).abs() + 0.01
    assert model_stock(deltas).tolist() == pytest.approx(_published(deltas.tolist()), rel=1e-9)


def test_each_row_is_merged_as_if_it_were_a_tensor() -> None:
    deltas = operating.draw((3, 6, 5), dtype=torch.float64)
    rows = [model_stock(deltas[:, row]) for row in range(6)]
    assert torch.allclose(model_stock_rows(deltas), torch.stack(rows))


def test_rows_differ_from_the_whole() -> None:
    deltas = operating.draw((3, 6, 5), dtype=torch.float64)
    assert not torch.allclose(model_stock_rows(deltas), model_stock(deltas), rtol=1e-2)


def test_angles_that_no_models_can_have_give_the_base() -> None:
    """Opposite pairs have a cosine of -1, where the ratio has no value."""
    assert model_stock([[1.0, 0.5], [-1.0, -0.5]]).tolist() == [0.0, 0.0]


def test_a_task_vector_of_zeros_is_at_a_right_angle() -> None:
    """Three sources, one pair of three at 0 degrees: a cosine of 1/3, a ratio of 3/5."""
    merged = model_stock([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    assert merged.tolist() == pytest.approx([0.6, 0.0])
