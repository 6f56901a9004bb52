"""The course of a search: what was told so far, summed up as it grows."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.errors import NoCandidateError
from evomerge.evaluation.scores.outcome import Evaluated, Failed
from evomerge.evaluation.scores.racing import TRUSTED, Race
from evomerge.store.records import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import TaskScore
    from evomerge.recipe.search import Racing, Stop

FRUITLESS_GENERATIONS, FEWEST = 2, 16
"""After so many generations in a row of failures or repetitions a search ends; and candidates."""


class Course:
    """What a search has been told, in order of asking.

    What is made of it is the same whenever it is asked, so that a replayed search takes the same
    course. What is known of finalists only, from an end of the search, does not count.

    Args:
        objective: Turns scores into fitness.
        generation: Candidates under way at a time.
    """

    def __init__(self, objective: Objective, generation: int) -> None:
        self._objective, self._generation = objective, generation
        self._told = self._since_leader = 0
        # The best that were scored on all search items, equal ones in order of asking.
        self._leaders: list[tuple[float, tuple[TaskScore, ...]]] = []
        self._spans: dict[str, tuple[float, float]] = {}
        self._first_told: dict[str, int] = {}
        self._starting = set[str]()
        self._seconds, self._items = 0.0, 0
        self._any_evaluated = False
        self._last = deque[Entry](maxlen=max(FRUITLESS_GENERATIONS * generation, FEWEST))

    def tell(self, entries: Sequence[Entry]) -> None:
        """Add what became of the next candidates."""
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        candidate, outcome = entry.candidate, entry.outcome
        if candidate.generation == 0:
            self._starting.add(candidate.digest)
        else:
            self._since_leader += 1
            # A strategy may ask for each source by its number first, to hear what it scored.
            if candidate.digest not in self._starting:
                self._last.append(entry)
                self._any_evaluated |= isinstance(outcome, Evaluated)
        # The same recipe twice was scored once.
        if self._first_told.setdefault(candidate.digest, self._told) == self._told and isinstance(
            outcome, Evaluated
        ):
            self._seconds += outcome.timing.total_s
            # What was scored by an earlier run took no time of this one.
            if outcome.timing.total_s > 0:
                self._items += sum(len(score.items) for score in outcome.scores)
        if scores := entry.searched:
            self._rank(scores)
            for each in scores:
                low, high = self._spans.get(each.task, (np.inf, -np.inf))
                self._spans[each.task] = (min(low, *each.items), max(high, *each.items))
        self._told += 1

    def _rank(self, scores: tuple[TaskScore, ...]) -> None:
        fitness = self._objective.fitness(scores)
        place = bisect_right(self._leaders, -fitness, key=lambda leader: -leader[0])
        self._leaders.insert(place, (fitness, scores))
        del self._leaders[TRUSTED:]
        if place == 0:
            self._since_leader = 0

    def race(self, racing: Racing | None) -> Race | None:
        """What a new candidate has to beat; None without rungs, or if nothing is known."""
        if racing is None or not self._leaders:
            return None
        expected = {
            scores[0].task: np.mean([score.items for score in scores], axis=0).tolist()
            for scores in zip(*(scores for _, scores in self._leaders), strict=True)
        }
        return Race(
            to_beat=self._leaders[0][0],
            aims=self._objective.aims(),
            expected=expected,
            ranges={task: high - low for task, (low, high) in self._spans.items()},
            alpha=racing.alpha,
            looks=len(racing.rungs),
        )

    def reason_to_stop(self, stop: Stop) -> str | None:
        """Why the search should end before its candidates are used up, in one line.

        Args:
            stop: The limits.
        """
        if stop.hours is not None and self._seconds >= 3600 * stop.hours:
            return f"the workers have worked for {self._seconds / 3600:.3g} hours"
        if stop.items is not None and self._items >= stop.items:
            return f"{self._items} items were scored"
        if not self._leaders:
            return None
        best = self._leaders[0][0]
        if stop.target is not None and best >= stop.target:
            return f"the best score is {best:.3f}, and the target {stop.target:g}"
        if stop.patience is not None and self._since_leader >= stop.patience * self._generation:
            return f"none of the last {self._since_leader} candidates was better than the best"
        return None

    def failing(self) -> str | None:
        """Why a search in which everything fails should end, in one line.

        Raises:
            NoCandidateError: There were only failures.
        """
        last = self._last
        failures = [entry.outcome for entry in last if isinstance(entry.outcome, Failed)]
        if len(failures) < (last.maxlen or 0):
            return None
        reasons = sorted({failure.reason for failure in failures})
        why = f"the last {len(last)} candidates failed: {'; '.join(reasons)}"
        if self._any_evaluated:
            return why
        raise NoCandidateError(why)

    def repeating(self) -> str | None:
        """Why a strategy that proposes nothing new should be asked no more, in one line."""
        last = self._last
        # They are numbered in the order in which they are told.
        if len(last) == last.maxlen and all(
            self._first_told[entry.candidate.digest] < last[0].candidate.number for entry in last
        ):
            return f"the last {len(last)} candidates were no new ones"
        return None

    def begin_strategy(self) -> None:
        """Hold what was told so far against no strategy that proposes from now on."""
        self._last.clear()
