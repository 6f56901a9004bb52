"""Sens-Merging shares every layer among the models and keeps the strength of the whole."""

from __future__ import annotations

from typing import Any

import operating
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

NORMS = ["l2", "l2_sqrt", "max"]
TAUS = ["distance", "alignment"]

sizes = st.lists(st.floats(0.01, 100), min_size=3, max_size=3)


def shares(**arguments: Any) -> torch.Tensor:
    """The coefficients of three models."""
    return operating.merge(
        "sens_merging", torch.eye(3, dtype=torch.float64), weight=1.0, scale=1.0, **arguments
    )


@pytest.mark.parametrize("alpha_norm", NORMS)
@pytest.mark.parametrize("tau", TAUS)
@given(sensitivity=st.lists(sizes, min_size=3, max_size=3), distance=sizes, t=st.floats(0.01, 3))
def test_the_coefficients_of_a_layer_are_one_on_average(
    tau: str,
    alpha_norm: str,
    sensitivity: list[list[float]],
    distance: list[float],
    t: float,
) -> None:
    a, b, c = distance
    found = shares(
        tau=tau,
        alpha_norm=alpha_norm,
        temperature=t,
        sensitivity=sensitivity,
        distance=[[0, a, b], [a, 0, c], [b, c, 0]],
    )
    assert float(found.mean()) == pytest.approx(1)
    assert (found >= 0).all()


def test_high_temperatures_are_task_arithmetic() -> None:
    found = shares(temperature=1e6)
    assert torch.allclose(found, torch.ones(3, dtype=torch.float64), atol=1e-5)


def test_low_temperatures_give_the_layer_to_one_model() -> None:
    found = shares(temperature=1e-4)
    assert sorted(found.tolist()) == pytest.approx([0, 0, 3])


@pytest.mark.parametrize("alpha_norm", NORMS)
@pytest.mark.parametrize("tau", TAUS)
def test_the_unit_of_a_loss_does_not_matter(tau: str, alpha_norm: str) -> None:
    sensitivity = operating.source_input("sensitivity", (3, 1), torch.float64)
    assert sensitivity is not None
    units = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)[:, None]
    arguments = {"tau": tau, "alpha_norm": alpha_norm}
    assert torch.allclose(
        shares(sensitivity=sensitivity, **arguments),
        shares(sensitivity=sensitivity * units, **arguments),
    )


def test_models_that_all_answer_alike_share_evenly() -> None:
    for tau in TAUS:
        found = shares(tau=tau, sensitivity=[[1, 2]] * 3, distance=[[0, 0, 0]] * 3)
        assert found.tolist() == pytest.approx([1, 1, 1])


def test_a_layer_that_nothing_depends_on_is_shared_evenly() -> None:
    found = shares(sensitivity=[[0, 1], [0, 2], [0, 0]])
    assert found.tolist() == pytest.approx([1, 1, 1])


def test_without_trimming_and_division_agreeing_models_are_added_up_as_by_task_arithmetic() -> (
    None
):
    stack = operating.draw((3, 50), dtype=torch.float64).abs()
    arguments = {"weight": (0.5, 0.6, 0.7), "scale": 0.9, "temperature": 0.5}
    assert torch.allclose(
        operating.merge("sens_merging_ties", stack, density=1.0, normalize=False, **arguments),
        operating.merge("sens_merging", stack, **arguments),
    )
