"""Promise: a logistic regression with a prior ends at its one mode, wherever it begins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from evomerge.evaluation.scores.logistic import logistic_modes, sigmoid


def test_chances_are_exact_and_never_overflow() -> None:
    logits = np.array([-1e4, -2.0, 0.0, 3.0, 1e4])
    assert sigmoid(logits) == pytest.approx(expit(logits), abs=1e-15)


def test_modes_are_those_that_a_general_optimiser_finds() -> None:
    rng = np.random.default_rng(0)
    design, offset = rng.normal(0, 2, (30, 3)), rng.normal(0, 1, 30)
    answers = np.array([rng.integers(0, 2, 30), rng.random(30)])
    found = logistic_modes(design, answers, offset, 0.3, np.zeros((2, 3)))

    def depth(coefficients: np.ndarray, row: np.ndarray) -> float:
        logits = design @ coefficients + offset
        prior = 0.15 * coefficients @ coefficients
        return float((np.logaddexp(0, logits) - row * logits).sum() + prior)

    for row, ours in zip(answers, found, strict=True):
        theirs = minimize(depth, np.zeros(3), args=(row,), method="BFGS", tol=1e-10).x
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_mode_is_found_from_where_full_steps_diverge() -> None:
    design, answers = np.ones((4, 1)), np.array([[1.0, 0.0, 0.0, 1.0]])
    (found,) = logistic_modes(design, answers, np.zeros(4), 1e-6, np.array([[8.0]]))
    assert found == pytest.approx([0.0], abs=1e-6)


def test_answers_that_can_be_separated_have_a_finite_mode() -> None:
    design = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    (found,) = logistic_modes(
        design, np.array([[0.0, 0.0, 1.0, 1.0]]), np.zeros(4), 0.1, np.zeros((1, 1))
    )
    # The slope of the likelihood is what pulls back.
    pull = (np.array([0, 0, 1, 1]) - expit(design[:, 0] * found)) @ design
    assert pull == pytest.approx(0.1 * found, abs=1e-6)
