"""Logistic regressions with a Gaussian prior, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evomerge.evaluation.scores.statistics import Array

STEPS, HALVINGS, TOLERANCE = 50, 30, 1e-6


def sigmoid(logits: Array) -> Array:
    """Chances of these logits, of any shape, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), dtype=np.float64)


def logistic_modes(
    design: Array, answers: Array, offset: Array, precision: float, start: Array
) -> Array:
    """Posterior modes of logistic regressions that share their design, by Newton's method.

    Args:
        design: Shape `(R, P)`.
        answers: In [0, 1], one regression a row, shape `(B, R)`.
        offset: Added to the logits, shape `(R,)`.
        precision: Of the coefficients' prior around 0; above 0, so that there is one mode and it
            is finite.
        start: Where to begin, shape `(B, P)`.

    Returns:
        Coefficients, shape `(B, P)`.
    """

    def height(found: Array) -> Array:
        logits = found @ design.T + offset
        likelihood = (answers * logits - np.logaddexp(0, logits)).sum(axis=1)
        return np.asarray(likelihood - precision / 2 * (found**2).sum(axis=1), dtype=np.float64)

    found = start
    for _ in range(STEPS):
        chances = sigmoid(found @ design.T + offset)
        slope = (answers - chances) @ design - precision * found
        bend = np.einsum("br,rp,rq->bpq", chances * (1 - chances), design, design, optimize=True)
        bend += precision * np.eye(design.shape[1])
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        # Where the curve bends little, a full step leads far beyond the top.
        for _ in range(HALVINGS):
            lower = height(found + step) < height(found)
            if not lower.any():
                break
            step = np.where(lower[:, None], step / 2, step)
        found = found + step
        if np.abs(step).max() < TOLERANCE:
            break
    return found
