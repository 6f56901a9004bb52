"""What a longer search would likely bring, told from how its best score rose so far.

The best score of a search rises about as much with every doubling of its candidates, or less each
time. So its rise with the last doublings says what to expect of more candidates: on planted
landscapes it rose by no more than 2.5 times that in 8 of 10 searches (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.scores.outcome import Evaluated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.store.records import Entry

LEAST = 40
"""Offspring from which on there is something to tell from."""

FARTHEST = 4
"""How many times as many candidates can be looked ahead to."""

CAUTION = 2.5
"""What the rise per doubling is multiplied with."""

LEAST_SHOWN = 0.0005
"""A rise that is shown as more than nothing."""

HOUR_S, MINUTE_S = 3600.0, 60.0


def forecast(
    entries: Sequence[Entry], objective: Objective, workers: int
) -> dict[str, Any] | None:
    """What another hour would likely bring on the search items, or less where it is too far off.

    Args:
        entries: All candidates, in order of asking.
        objective: Turns scores into fitness.
        workers: How many candidates are worked on at a time.

    Returns:
        `candidates`, `hours`, `low`, `high` and `text`; None if the search was too short.
    """
    asked = [entry for entry in entries if entry.candidate.number >= 0]
    course = [entry for entry in asked if entry.candidate.kind == "offspring"]
    starts = [e for e in asked if e.candidate.kind != "offspring" and e.searched]
    times = [e.outcome.timing.total_s for e in course if isinstance(e.outcome, Evaluated)]
    if len(course) < LEAST or not sum(times) or not starts:
        return None
    each_s = sum(times) / len(times) / workers
    candidates = max(1, min(round(HOUR_S / each_s), FARTHEST * len(course)))
    seconds = candidates * each_s
    # What was stopped or failed is no better than what was there before.
    least = max(objective.fitness(entry.searched) for entry in starts)
    scores = [objective.fitness(e.whole) if e.whole else least for e in course]
    high = greatest_rise([max(score, least) for score in scores], candidates)
    raised = f"raise the best merge's search score by at most {high:.3f}"
    if high < LEAST_SHOWN:
        raised = "not raise the best merge's search score"
    return {
        "candidates": candidates,
        "hours": seconds / HOUR_S,
        "low": 0.0,
        "high": high,
        "text": f"{_another(seconds)} (about {_rounded(candidates)}) would likely {raised}.",
    }


def greatest_rise(scores: Sequence[float], more: int) -> float:
    """How much the best score likely rises at most.

    Args:
        scores: Of the offspring so far, four at least, in order; no worse than the best score
            before them.
        more: How many more there will be.
    """
    best = list(accumulate(scores, max))
    now, half, quarter = best[-1], best[len(best) // 2 - 1], best[len(best) // 4 - 1]
    # Some searches rise late, so the last doubling alone may count.
    per_doubling = max(now - half, (now - quarter) / 2)
    return CAUTION * per_doubling * math.log2(1 + more / len(best))


def _another(seconds: float) -> str:
    if seconds > HOUR_S * 0.95:
        return "Another hour"
    minutes = max(1, round(seconds / MINUTE_S))
    return f"Another {minutes} minutes" if minutes > 1 else "Another minute"


def _rounded(candidates: int) -> str:
    """A number of candidates with two digits that mean something."""
    shown = round(candidates, 1 - math.floor(math.log10(candidates)))
    return f"{shown:,} candidate{'s' if shown > 1 else ''}"
