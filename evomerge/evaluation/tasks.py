"""The door to lm-eval's tasks: their documents, requests and metrics."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.errors import TaskError
from evomerge.evaluation.outcome import TaskScore

if TYPE_CHECKING:
    from collections.abc import Sequence

PERPLEXITIES = {"perplexity", "weighted_perplexity", "bits_per_byte"}
"""lm-eval's aggregations that turn log-likelihoods into something to be minimised."""

CODE_TAG = re.compile(r"(^|\s)!function\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """Which lm-eval task, and how.

    Attributes:
        name: The task's name.
        metric: `metric` or `metric,filter`; the task's first when None.
        num_fewshot: Solved examples in the prompt; the task's own number when None.
        include_path: Folder of local task files.
        allow_code: Whether local task files may name Python functions.
    """

    name: str
    metric: str | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    allow_code: bool = False


class HarnessTask:
    """One lm-eval task restricted to some items, its requests built once.

    Attributes:
        name: The task's name.
        higher_is_better: Direction of its metric.
        is_mean: Whether its score is the mean of its items' scores.
        requests: lm-eval's request objects, after `build`, in the order of the items.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.name = spec.name
        self._task = _load(spec)
        if spec.num_fewshot is not None:
            self._task.set_config("num_fewshot", spec.num_fewshot)
        self._task.set_fewshot_seed(1234)  # lm-eval's own default, so that prompts are the same
        self._metric, self._filter = self._choose_metric(spec.metric)
        self.higher_is_better = bool(self._task.higher_is_better()[self._metric])
        self.is_mean = self._task.aggregation()[self._metric].__name__ == "mean"
        self.requests: list[Any] = []
        self._of_item: list[tuple[int, list[Any]]] = []

    def document_digests(self) -> list[str]:
        """A content digest of each document, in the task's order."""
        texts = (json.dumps(d, sort_keys=True, default=str) for d in self._task.eval_docs)
        return [blake3(text.encode()).hexdigest() for text in texts]

    def build(self, items: Sequence[int]) -> None:
        """Build the requests of some items, given by position in the documents."""
        with _quietly():
            self._task.build_all_requests(samples=frozenset(items))
        by_document: dict[int, list[Any]] = defaultdict(list)
        for request in self._task.instances:
            by_document[request.doc_id].append(request)
        # lm-eval numbers the chosen documents in ascending order.
        number = {position: n for n, position in enumerate(sorted(items))}
        self._of_item = [
            (position, sorted(by_document[number[position]], key=lambda request: request.idx))
            for position in items
        ]
        self.requests = [request for _, requests in self._of_item for request in requests]
        sampled = [r for r in self.requests if r.request_type == "generate_until" and _samples(r)]
        if sampled:
            raise TaskError(
                f"task {self.name}: asks for random sampling; scores would not be repeatable, "
                "set do_sample: false in its generation_kwargs"
            )

    def count(self, items: int) -> int:
        """How many requests the first items have together."""
        return sum(len(requests) for _, requests in self._of_item[:items])

    def score(self, responses: Sequence[Any]) -> TaskScore:
        """Turn the model's responses into scores.

        Args:
            responses: One response per request, in the order of `requests`; of all items, or of
                the first few.

        Raises:
            EvaluationError: A score is not finite.
        """
        answered = self.requests[: len(responses)]
        for request, response in zip(answered, responses, strict=True):
            request.resps = [response] * request.repeats
            request.filtered_resps = {}
        for each in self._task._filters:  # noqa: SLF001 (lm-eval's own way filters all requests)
            each.apply(answered)
        raw, first = {}, 0
        for position, requests in self._of_item:
            first += len(requests)
            if first > len(answered):
                break
            answers = [request.filtered_resps[self._filter] for request in requests]
            raw[position] = self._task.process_results(requests[0].doc, answers)[self._metric]
        aggregate = self._task.aggregation()[self._metric]
        # In the order in which lm-eval adds up, so that the last bits are the same.
        total = aggregate([raw[position] for position in sorted(raw)])
        # An item of a perplexity is a log-likelihood, whose sign points the other way.
        sign = -1.0 if aggregate.__name__ in PERPLEXITIES else 1.0
        items = tuple(sign * _item_score(value) for value in raw.values())
        return TaskScore(task=self.name, score=float(total), items=items)

    def _choose_metric(self, wanted: str | None) -> tuple[str, str]:
        known = list(self._task.aggregation())
        filters = [each.name for each in self._task._filters]  # noqa: SLF001 (no public way)
        metric, _, chosen_filter = (wanted or known[0]).partition(",")
        if metric not in known:
            raise TaskError(
                f"task {self.name}: has no metric {metric!r}{_near(metric, known)}; "
                f"it has: {', '.join(known)}"
            )
        if chosen_filter and chosen_filter not in filters:
            raise TaskError(
                f"task {self.name}: has no filter {chosen_filter!r}; it has: {', '.join(filters)}"
            )
        return metric, chosen_filter or filters[0]


def _samples(request: Any) -> bool:
    return bool(request.args[1].get("do_sample"))


def _item_score(value: Any) -> float:
    """One item's metric; a (log-likelihood, length) pair becomes their ratio."""
    if isinstance(value, tuple) and len(value) == 2:
        return float(value[0]) / float(value[1])
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TaskError(
            "a metric that has no value per item cannot be used in a search; choose another"
        ) from None


def _load(spec: TaskSpec) -> Any:
    from lm_eval.tasks import TaskManager

    # lm-eval announces every prompt it builds at level INFO.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if spec.include_path is not None:
        refuse_code(Path(spec.include_path), allowed=spec.allow_code)
    manager = TaskManager(include_path=spec.include_path, include_defaults=False)
    if spec.name not in manager.all_tasks:
        # Reading lm-eval's 10,000 own task files takes seconds, so only when they are needed.
        manager = TaskManager(include_path=spec.include_path)
    if spec.name not in manager.all_tasks:
        raise TaskError(f"task {spec.name!r} does not exist{_near(spec.name, manager.all_tasks)}")
    try:
        with _quietly():
            tasks = manager.load([spec.name])["tasks"]
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"task {spec.name}: cannot be loaded: {cause}") from error
    if list(tasks) != [spec.name]:
        raise TaskError(f"task {spec.name}: is a group; list its tasks: {', '.join(tasks)}")
    return tasks[spec.name]


def _quietly() -> contextlib.AbstractContextManager[object]:
    # lm-eval and datasets draw progress bars that cannot be turned off from outside.
    return contextlib.redirect_stderr(io.StringIO())


def refuse_code(folder: Path, *, allowed: bool) -> None:
    """Refuse a folder of task files that would run Python code.

    Raises:
        TaskError: The folder is missing, or names functions and `allowed` is not set.
    """
    if not folder.is_dir():
        raise TaskError(f"evaluation.include_path: {folder} is not a folder")
    for file in sorted(folder.rglob("*.yaml")):
        if not allowed and CODE_TAG.search(file.read_text(encoding="utf-8", errors="replace")):
            raise TaskError(
                f"{file}: runs Python code (!function); read it, then set "
                "evaluation.allow_task_code=true to accept it"
            )


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
