"""Races: a candidate that can no longer beat the best one is not scored on the other items.

Items come in the run's fixed random order, so those seen so far are a random sample of them all.
The score on all of them is estimated by the difference estimator (Särndal, Swensson, Wretman,
"Model Assisted Survey Sampling", 1992, section 6.3): what is expected of every item, corrected by
how far off that is where the candidate was seen. It is unbiased whatever is expected, and the
nearer the expectation comes, the less it varies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.scores.objective import Aim
    from evomerge.evaluation.scores.outcome import TaskScore

FEWEST = 20
"""Items that must have been seen before a race may be lost."""

TRUSTED = 5
"""Number of candidates, the best so far, whose mean on an item is expected of the next one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A task's score on all items, told from some of them.

    Attributes:
        score: The estimate.
        variance: Of the estimate, over random orders of the items.
        freedom: Degrees of freedom of the variance.
    """

    score: float
    variance: float
    freedom: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """What a candidate has to beat; plain data, so that it can travel.

    Attributes:
        to_beat: The best fitness so far.
        aims: What has to be as high as that, each of them.
        expected: Expected score of each item of each task, in the frozen order.
        ranges: Greatest difference of two items' scores of a task, of any candidate so far.
        alpha: Chance that a candidate as good as the best is stopped at any of the looks.
        looks: How often it is looked at.
    """

    to_beat: float
    aims: Sequence[Aim]
    expected: Mapping[str, Sequence[float]]
    ranges: Mapping[str, float]
    alpha: float
    looks: int

    def stopped(self, seen: Sequence[TaskScore]) -> tuple[TaskScore, ...] | None:
        """Look at the scores on the first items of each task.

        Returns:
            None if the candidate may still win; else its scores, estimated for all items.
        """
        if sum(len(score.items) for score in seen) < FEWEST:
            return None
        if any(len(score.items) < 2 for score in seen):
            return None
        found = {
            score.task: estimate(score.items, self.expected[score.task], self.ranges[score.task])
            for score in seen
        }
        # An aim may be missed by chance at any look, and so may each of them.
        alpha = self.alpha / self.looks / len(self.aims)
        if all(_bound(aim, found, alpha) >= self.to_beat for aim in self.aims):
            return None
        return tuple(replace(score, score=found[score.task].score) for score in seen)


def _bound(aim: Aim, found: Mapping[str, Estimate], alpha: float) -> float:
    """What an aim is below, except with probability alpha."""
    value = aim.value({task: each.score for task, each in found.items()})
    variance = sum(share**2 * found[task].variance for task, share in aim.shares.items())
    freedom = sum(found[task].freedom for task in aim.shares)
    return value + _quantile(alpha, freedom) * math.sqrt(variance)


def estimate(seen: Sequence[float], expected: Sequence[float], range_: float) -> Estimate:
    """Estimate the mean score on all items from that on the first n of them.

    Args:
        seen: Scores of the first items, at least 2 of them.
        expected: Expected scores of all N items.
        range_: How far apart two items' scores may be.
    """
    known = np.asarray(expected, dtype=np.float64)
    count, total = len(seen), len(known)
    off = np.asarray(seen, dtype=np.float64) - known[:count]
    # Where successes are rare, there may be none among the items seen, and some among the others:
    # one item more, as far off as can be, makes up for that.
    spread = float(off.var(ddof=1)) + max(range_, max(seen) - min(seen)) ** 2 / count
    return Estimate(
        score=float(known.mean() + off.mean()),
        variance=(1 - count / total) * spread / count,
        freedom=count - 1,
    )


def _quantile(alpha: float, freedom: int) -> float:
    """Upper quantile of Student's t; Cornish-Fisher, good to 0.01 from 15 degrees of freedom."""
    z = -NormalDist().inv_cdf(alpha)
    return z + (z**3 + z) / (4 * freedom)
