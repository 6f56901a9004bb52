"""FIM merging is careful where the base is sensitive and the task vector long."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def coefficient(importance: list[float], caution: float = 1.0) -> float:
    stack = torch.ones(1, 1, dtype=torch.float64)
    return float(
        operating.merge(
            "fim", stack, weight=1.0, scale=1.0, caution=caution, importance=[importance]
        )
    )


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6, unique=True))
def test_more_important_layers_have_smaller_coefficients(values: list[float]) -> None:
    by_layer = {
        value: coefficient([value, *(other for other in values if other != value)])
        for value in values
    }
    ordered = [by_layer[value] for value in sorted(values)]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 < each < 1 for each in ordered)


def test_a_layer_of_mean_importance_is_halved_at_caution_one() -> None:
    assert coefficient([2, 1, 3]) == pytest.approx(0.5)


def test_models_without_importance_are_added_up_in_full() -> None:
    assert coefficient([0, 0, 0]) == pytest.approx(1.0)


def test_without_caution_it_is_task_arithmetic_and_ties() -> None:
    stack = operating.draw((3, 50), dtype=torch.float64)
    arguments = {"weight": (0.5, 0.6, 0.7), "scale": 0.9}
    assert torch.allclose(
        operating.merge("fim", stack, caution=0.0, **arguments),
        operating.merge("task_arithmetic", stack, normalize=False, **arguments),
    )
    assert torch.allclose(
        operating.merge("fim_ties", stack, caution=0.0, density=0.4, **arguments),
        operating.merge("ties", stack, density=0.4, normalize=True, **arguments),
    )
