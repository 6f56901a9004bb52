"""Paired statistics on per-item scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Fitness = Callable[[Mapping[str, "Array"]], "Array"]

RESAMPLES = 20_000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """How much better one model is than another on the same items.

    Attributes:
        difference: The first model's fitness less the second's, both of means over items.
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
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    fitness: Fitness,
    *,
    comparisons: int = 1,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models on the same items, task by task.

    The bootstrap resamples items within each task; the permutation test swaps the two models'
    scores of single items.

    Args:
        first: Scores of the first model's items by task.
        second: Scores of the second, in the same order.
        fitness: What is compared: from the mean score of each task, shape `(S,)`, to shape `(S,)`.
        comparisons: How many comparisons interval and p-value have to allow for (Bonferroni).
        seed: Seeds both resamplings.
    """
    rng = np.random.default_rng(seed)
    pairs = {
        task: np.stack([first[task], second[task]], axis=1).astype(np.float64) for task in first
    }

    def difference(means: Mapping[str, Array]) -> Array:
        ours, theirs = ({task: of[:, side] for task, of in means.items()} for side in (0, 1))
        return fitness(ours) - fitness(theirs)

    observed = float(difference({t: pair.mean(axis=0)[None] for t, pair in pairs.items()})[0])
    resampled = difference({t: _bootstrap_means(pair, rng) for t, pair in pairs.items()})
    permuted = difference({t: _swapped_means(pair, rng) for t, pair in pairs.items()})
    outside = 0.025 / comparisons
    low, high = np.quantile(resampled, [outside, 1 - outside])
    # A tie with the observed difference counts, up to rounding; so does the observed one itself.
    extreme = int((np.abs(permuted) >= abs(observed) - 1e-12).sum())
    p_value = (extreme + 1) / (RESAMPLES + 1)
    return PairedComparison(
        difference=observed,
        low=float(low),
        high=float(high),
        p_value=min(1.0, comparisons * p_value),
        items=sum(len(pair) for pair in pairs.values()),
    )


def _bootstrap_means(pair: Array, rng: np.random.Generator) -> Array:
    """Both models' means over resampled items, shape `(RESAMPLES, 2)`."""
    values, counts = np.unique(pair, axis=0, return_counts=True)
    draws = rng.multinomial(len(pair), counts / len(pair), size=RESAMPLES)
    return np.asarray(draws @ values / len(pair), dtype=np.float64)


def _swapped_means(pair: Array, rng: np.random.Generator) -> Array:
    """Both models' means after each item's scores were swapped or not, shape `(RESAMPLES, 2)`."""
    # Of equal pairs, a binomial number is swapped.
    values, counts = np.unique(pair, axis=0, return_counts=True)
    swapped = rng.binomial(counts, 0.5, size=(RESAMPLES, len(counts)))
    means = (counts - swapped) @ values + swapped @ values[:, ::-1]
    return np.asarray(means / len(pair), dtype=np.float64)
