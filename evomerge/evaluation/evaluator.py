"""Scores whatever a live model holds, on items that were prepared once."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.forward import Scorer
from evomerge.evaluation.tasks import HarnessTask, TaskSpec
from evomerge.evaluation.tokens import PreparedRequest, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.items import TaskItems
    from evomerge.evaluation.outcome import Split, TaskScore


@dataclass(frozen=True, kw_only=True, slots=True)
class _PreparedTask:
    task: HarnessTask
    requests: Sequence[PreparedRequest]


class ResidentEvaluator:
    """Holds tasks, requests and token ids of a live model, so that only forward passes remain.

    Args:
        model: A causal language model of transformers, whose weights may change at any time.
        tokenizer: Its tokenizer.
        tasks: The tasks.
        items: The items of each task, in the same order.
        batch_tokens: Most tokens of one forward pass, padding included.

    Attributes:
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
        self._scorer = Scorer(model, self._tokenizer, batch_tokens)
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
        # All tasks together, so that batches are full.
        answers = iter(self._scorer.run([r for each in prepared for r in each.requests]))
        self.forward_s = time.perf_counter() - started
        return tuple(each.task.score([next(answers) for _ in each.requests]) for each in prepared)

    def prepare(self, split: Split) -> None:
        """Build and tokenise the requests of a split ahead of its first evaluation."""
        self._prepared(split)

    def _prepare(self, split: Split) -> tuple[_PreparedTask, ...]:
        return tuple(self._prepare_task(spec, split) for spec in self._specs.values())

    def _prepare_task(self, spec: TaskSpec, split: Split) -> _PreparedTask:
        # A task object of lm-eval keeps one set of requests, so each split has its own.
        task = HarnessTask(spec)
        entry = self._items[spec.name]
        task.build(entry.search if split == "search" else entry.held_out)
        return _PreparedTask(task=task, requests=self._tokenizer.prepare(task.requests))
