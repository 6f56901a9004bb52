"""Scores whatever a live model holds, on items that were prepared once."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.answers import AnswerPlan
from evomerge.evaluation.forward import Forward
from evomerge.evaluation.tasks import HarnessTask, TaskSpec
from evomerge.evaluation.tokens import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.items import TaskItems
    from evomerge.evaluation.outcome import Split, TaskScore


@dataclass(frozen=True, kw_only=True, slots=True)
class _PreparedSplit:
    """The tasks with the requests of some items, and how these are answered.

    Attributes:
        tasks: Each task and its number of requests.
        plan: Answers all of them together, so that batches are full.
    """

    tasks: Sequence[tuple[HarnessTask, int]]
    plan: AnswerPlan


class ResidentEvaluator:
    """Holds tasks, requests and token ids of a live model, so that only forward passes remain.

    Args:
        model: A causal language model of transformers, whose weights may change at any time.
        tokenizer: Its tokenizer.
        tasks: The tasks.
        items: The items of each task, in the same order.
        batch_tokens: Most tokens of one forward pass, padding included.

    Attributes:
        forward: The model's forward passes.
        forward_s: Seconds that the last evaluation spent in forward passes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tasks: Sequence[TaskSpec],
        items: Sequence[TaskItems],
        batch_tokens: int,
    ) -> None:
        self._specs = {spec.name: spec for spec in tasks}
        self._items: Mapping[str, TaskItems] = {entry.task: entry for entry in items}
        self._tokenizer = Tokenizer(model, tokenizer)
        self.forward = Forward(model)
        self._batch_tokens = batch_tokens
        # Per instance: a cache on the method would keep every evaluator alive.
        self._prepared = functools.cache(self._prepare)
        self.forward_s = 0.0

    def evaluate(self, split: Split) -> tuple[TaskScore, ...]:
        """Score the model as it is now on every task.

        Raises:
            EvaluationError: A score is not finite.
        """
        prepared = self._prepared(split)
        started = time.perf_counter()
        answers = iter(prepared.plan.run())
        self.forward_s = time.perf_counter() - started
        return tuple(
            task.score([next(answers) for _ in range(count)]) for task, count in prepared.tasks
        )

    def prepare(self, split: Split) -> AnswerPlan:
        """Build and tokenise the requests of a split ahead of its first evaluation."""
        return self._prepared(split).plan

    def _prepare(self, split: Split) -> _PreparedSplit:
        tasks, requests = [], []
        for spec in self._specs.values():
            # A task object of lm-eval keeps one set of requests, so each split has its own.
            task = HarnessTask(spec)
            entry = self._items[spec.name]
            task.build(entry.search if split == "search" else entry.held_out)
            tasks.append((task, len(task.requests)))
            requests += self._tokenizer.prepare(task.requests)
        plan = AnswerPlan(requests, self.forward, self._tokenizer, self._batch_tokens)
        return _PreparedSplit(tasks=tasks, plan=plan)
