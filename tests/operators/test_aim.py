"""AIM shrinks the columns that read strong activations, and nothing else."""

from __future__ import annotations

import operating
import pytest
import torch

STACK = operating.draw((2, 3, 4), dtype=torch.float64)
SUM = operating.merge("task_arithmetic", STACK, weight=1.0, scale=1.0, normalize=False)


def relaxed(omega: float, activation: list[float]) -> torch.Tensor:
    return operating.merge("aim", STACK, weight=1.0, scale=1.0, omega=omega, activation=activation)


def test_an_omega_of_one_changes_nothing() -> None:
    assert torch.equal(relaxed(1.0, [1, 2, 3, 4]), SUM)


def test_silent_inputs_change_nothing() -> None:
    assert torch.equal(relaxed(0.4, [0, 0, 0, 0]), SUM)


def test_an_omega_of_zero_leaves_the_strongest_column_to_the_base() -> None:
    found = relaxed(0.0, [1, 5, 2, 0])
    assert not found[:, 1].any()
    assert torch.equal(found[:, 3], SUM[:, 3])


@pytest.mark.parametrize("unit", [0.01, 100.0])
def test_the_unit_of_activations_does_not_matter(unit: float) -> None:
    activation = [1.0, 2.0, 3.0, 4.0]
    scaled = [each * unit for each in activation]
    assert torch.allclose(relaxed(0.4, scaled), relaxed(0.4, activation))
