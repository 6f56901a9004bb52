"""Paired statistics on per-item scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 20_000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """How much better one model is than another on the same items.

    Attributes:
        difference: Weighted mean over tasks of the mean difference per item.
        low: Lower end of its bootstrap interval, 95 % for all comparisons together.
        high: Upper end.
        p_value: Two-sided p-value of the paired permutation test, allowing for all comparisons.
        items: Number of items compared.
    """

    difference: float
    low: float
    high: float
    p_value: float
    items: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"


def compare(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    shares: Sequence[float],
    *,
    comparisons: int = 1,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models on the same items, task by task.

    The bootstrap resamples items within each task; the permutation test swaps the two models'
    scores of single items.

    Args:
        first: Scores of the first model, one sequence of items per task.
        second: Scores of the second, in the same order.
        shares: Share of each task in the difference; negative where lower is better. They are
            divided by the sum of their absolute values.
        comparisons: How many comparisons interval and p-value have to allow for (Bonferroni).
        seed: Seeds both resamplings.
    """
    rng = np.random.default_rng(seed)
    weights = np.asarray(shares, dtype=np.float64) / np.abs(shares).sum()
    pairs = [np.subtract(a, b, dtype=np.float64) for a, b in zip(first, second, strict=True)]
    difference = float(sum(w * d.mean() for w, d in zip(weights, pairs, strict=True)))
    resampled = np.zeros(RESAMPLES)
    permuted = np.zeros(RESAMPLES)
    for weight, pair in zip(weights, pairs, strict=True):
        resampled += weight * _bootstrap_means(pair, rng)
        permuted += weight * _sign_flip_means(pair, rng)
    outside = 0.025 / comparisons
    low, high = np.quantile(resampled, [outside, 1 - outside])
    # A tie with the observed difference counts, up to rounding; so does the observed one itself.
    extreme = int((np.abs(permuted) >= abs(difference) - 1e-12).sum())
    p_value = (extreme + 1) / (RESAMPLES + 1)
    return PairedComparison(
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=min(1.0, comparisons * p_value),
        items=sum(len(pair) for pair in pairs),
    )


def _bootstrap_means(pair: Array, rng: np.random.Generator) -> Array:
    values, counts = np.unique(pair, return_counts=True)
    draws = rng.multinomial(len(pair), counts / len(pair), size=RESAMPLES)
    return np.asarray(draws @ values / len(pair), dtype=np.float64)


def _sign_flip_means(pair: Array, rng: np.random.Generator) -> Array:
    # Equal magnitudes are flipped together: their signed sum is binomial.
    values, counts = np.unique(np.abs(pair), return_counts=True)
    plus = rng.binomial(counts, 0.5, size=(RESAMPLES, len(counts)))
    return np.asarray((2 * plus - counts) @ values / len(pair), dtype=np.float64)
