"""Scores whatever a live model holds, on items that were prepared once."""

from __future__ import annotations

import functools
import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.tasks.lm_eval_tasks import HarnessTask, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.backends.contract import Backend, Plan
    from evomerge.evaluation.scores.outcome import Split, TaskScore
    from evomerge.evaluation.scores.racing import Race
    from evomerge.evaluation.tasks.items import TaskItems


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rung:
    """Items that are scored together.

    Attributes:
        counts: Number of requests of each task.
        plan: Answers all of them together, so that batches are full.
    """

    counts: Sequence[int]
    plan: Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class _PreparedSplit:
    """The tasks with the requests of some items, and how these are answered."""

    tasks: Sequence[HarnessTask]
    rungs: Sequence[_Rung]


class ResidentEvaluator:
    """Holds tasks, requests and token ids of a live model, so that only forward passes remain.

    Args:
        backend: The model, whose weights may change at any time.
        tasks: The tasks.
        items: The items of each task, in the same order.
        rungs: Shares of the search items after which a race may end.

    Attributes:
        forward_s: Seconds that the last evaluation spent in forward passes.
    """

    def __init__(
        self,
        backend: Backend,
        tasks: Sequence[TaskSpec],
        items: Sequence[TaskItems],
        rungs: Sequence[float] = (),
    ) -> None:
        self._backend = backend
        self._rungs = rungs
        self._specs = {spec.name: spec for spec in tasks}
        self._items: Mapping[str, TaskItems] = {entry.task: entry for entry in items}
        # Per instance: a cache on the method would keep every evaluator alive.
        self._prepared = functools.cache(self._prepare)
        self.forward_s = 0.0

    def evaluate(self, split: Split, race: Race | None = None) -> tuple[TaskScore, ...]:
        """Score the model as it is now on every task.

        Args:
            split: The items.
            race: What the model has to beat; if it cannot, it is not scored on all items.

        Raises:
            EvaluationError: A score or what it follows from is not finite.
        """
        prepared = self._prepared(split)
        self._backend.changed()
        self.forward_s = 0.0
        answers: list[list[Any]] = [[] for _ in prepared.tasks]
        scores: tuple[TaskScore, ...] = ()
        for rung in prepared.rungs:
            started = time.perf_counter()
            given = iter(rung.plan.run())
            self.forward_s += time.perf_counter() - started
            for of_task, count in zip(answers, rung.counts, strict=True):
                of_task.extend(itertools.islice(given, count))
            last = rung is prepared.rungs[-1]
            if race or last:
                scores = tuple(map(HarnessTask.score, prepared.tasks, answers))
            lost = race.stopped(scores) if race and not last else None
            if lost is not None:
                return lost
        return scores

    def share(self, split: Split, scores: Sequence[TaskScore]) -> float:
        """Share of the items of a split that some scores are of."""
        items = [self._items[task].of(split) for task in self._specs]
        return sum(len(score.items) for score in scores) / sum(map(len, items))

    def prepare(self, split: Split) -> list[Plan]:
        """Build and tokenise the requests of a split ahead of its first evaluation."""
        return [rung.plan for rung in self._prepared(split).rungs]

    def _prepare(self, split: Split) -> _PreparedSplit:
        # A task object of lm-eval keeps one set of requests, so each split has its own.
        tasks = [HarnessTask(spec) for spec in self._specs.values()]
        for task in tasks:
            task.build(self._items[task.name].of(split), self._backend.tokenizer)
        requests = [self._backend.tokenizer.prepare(task.requests) for task in tasks]
        rungs, done = [], [0] * len(tasks)
        for share in (*(self._rungs if split == "search" else ()), 1.0):
            ends = [
                task.count(math.ceil(share * len(self._items[task.name].of(split))))
                for task in tasks
            ]
            parts = [of[a:b] for of, a, b in zip(requests, done, ends, strict=True)]
            together = list(itertools.chain(*parts))
            plan = self._backend.plan(together)
            rungs.append(_Rung(counts=[len(part) for part in parts], plan=plan))
            done = ends
        return _PreparedSplit(tasks=tasks, rungs=rungs)
