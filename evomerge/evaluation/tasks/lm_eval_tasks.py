"""lm-eval's tasks: their documents, requests and metrics."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.errors import TaskError, did_you_mean
from evomerge.evaluation.generated_code.code_tasks import score_in_sandbox
from evomerge.evaluation.passes.tokens import Truncated
from evomerge.evaluation.scores.outcome import TaskScore
from evomerge.evaluation.tasks.choices import RightChoice, right_choice
from evomerge.evaluation.tasks.task_files import (
    load_task,
    load_text,
    quietly,
    runs_generated_code,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.passes.tokens import Tokenizer

GREEDY = {
    *("until", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"),
    *("do_sample", "temperature", "top_p", "top_k"),
}
"""lm-eval's settings of generation that greedy answers follow, or that mean nothing to them."""

PERPLEXITIES = {"perplexity", "weighted_perplexity", "bits_per_byte"}
"""lm-eval's aggregations that turn log-likelihoods into something to be minimised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """Which lm-eval task, and how.

    Attributes:
        name: The task's name.
        text: A file to be predicted, instead of a task that lm-eval finds by name.
        metric: `metric` or `metric,filter`; the task's first when None.
        num_fewshot: Solved examples in the prompt; the task's own number when None.
        chat_template: Whether prompts are put into the tokenizer's chat template.
        fewshot_as_multiturn: Whether solved examples are turns of a chat; in a chat template only.
        system_instruction: What stands before every prompt.
        generation: Settings of generation that replace the task's own, such as `max_gen_toks`.
        include_path: Folder of local task files.
        allow_code: Whether local task files may name Python functions.
        allow_generated_code: Whether the task may run the code that models generate.
    """

    name: str
    text: str | None = None
    metric: str | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    include_path: str | None = None
    allow_code: bool = False
    allow_generated_code: bool = False


class HarnessTask:
    """One lm-eval task restricted to some items, its requests built once.

    Attributes:
        name: The task's name.
        higher_is_better: Direction of its metric.
        is_mean: Whether its score is the mean of its items' scores.
        requests: lm-eval's request objects, after `build`, in the order of the items.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.name, self._spec = spec.name, spec
        if spec.text is None:
            self._task = load_task(
                spec.name,
                spec.include_path,
                allow_code=spec.allow_code,
                allow_generated_code=spec.allow_generated_code,
            )
        else:
            self._task = load_text(spec.name, Path(spec.text))
        if self._task.get_config("output_type") == "loglikelihood_rolling":
            self._refuse_prompts()
        if spec.generation:
            self._set_generation(spec.generation)
        if spec.num_fewshot is not None:
            self._task.set_config("num_fewshot", spec.num_fewshot)
        self._task.set_fewshot_seed(1234)  # lm-eval's own default, so that prompts are the same
        self._metric, self._filter = self._choose_metric(spec.metric)
        self.higher_is_better = bool(self._task.higher_is_better()[self._metric])
        self.is_mean = self._task.aggregation()[self._metric].__name__ == "mean"
        self.requests: list[Any] = []
        self._of_item: list[tuple[int, list[Any]]] = []
        self._right: list[RightChoice | None] = []

    def document_digests(self) -> list[str]:
        """A content digest of each document, in the task's order."""
        texts = (json.dumps(d, sort_keys=True, default=str) for d in self._task.eval_docs)
        return [blake3(text.encode()).hexdigest() for text in texts]

    def digest(self, documents: Sequence[str]) -> str:
        """A digest of what scores on some items follow from, models and arithmetic apart.

        Settings and, where one has been built, a prompt with its solved examples.

        Args:
            documents: The items' digests, in order.
        """
        parts = {
            "documents": list(documents),
            "config": self._task.dump_config(),
            "metric": [self._metric, self._filter],
            "instruction": self._spec.system_instruction,
            "chat": [self._spec.chat_template, self._spec.fewshot_as_multiturn],
            "prompt": [request.args for request in self.requests],
        }
        return blake3(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def in_words(self, items: Sequence[int]) -> list[str]:
        """What tells each item from others: its question, or all of it if others ask the same."""
        documents = self._task.eval_docs
        questions = [str(self._task.doc_to_text(documents[item])) for item in items]
        asked = Counter(questions)
        return [
            question
            if question and asked[question] == 1
            else f"{question} {self._task.doc_to_target(documents[item])}"
            for item, question in zip(items, questions, strict=True)
        ]

    def try_out(self, item: int) -> None:
        """Build the requests of an item, to see what is wrong; not of one in a chat template.

        Raises:
            TaskError: Something is.
        """
        if not self._spec.chat_template:
            self.build([item])

    def build(self, items: Sequence[int], tokenizer: Tokenizer | None = None) -> None:
        """Build the requests of some items.

        Args:
            items: Positions in the task's documents.
            tokenizer: Has the chat template, if the task asks for it.

        Raises:
            TaskError: lm-eval cannot build them, or they cannot be answered here.
        """
        spec = self._spec
        try:
            with quietly():
                self._task.build_all_requests(
                    samples=frozenset(items),
                    system_instruction=spec.system_instruction,
                    apply_chat_template=spec.chat_template,
                    fewshot_as_multiturn=spec.chat_template and spec.fewshot_as_multiturn,
                    chat_template=tokenizer.chat_template if tokenizer else None,
                )
        except Exception as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise TaskError(f"task {self.name}: its prompts cannot be built: {cause}") from error
        by_document: dict[int, list[Any]] = defaultdict(list)
        for request in self._task.instances:
            by_document[request.doc_id].append(request)
        # lm-eval numbers the chosen documents in ascending order.
        number = {position: n for n, position in enumerate(sorted(items))}
        self._of_item = [
            (position, sorted(by_document[number[position]], key=lambda request: request.idx))
            for position in items
        ]
        self._right = [right_choice(self._task, requests[0].doc) for _, requests in self._of_item]
        self.requests = [request for _, requests in self._of_item for request in requests]
        for request in self.requests:
            if request.request_type == "generate_until":
                self._refuse_other_generation(request.args[1])

    def count(self, items: int) -> int:
        """How many requests the first items have together."""
        return sum(len(requests) for _, requests in self._of_item[:items])

    def score(self, responses: Sequence[Any]) -> TaskScore:
        """Turn the model's responses into scores.

        Args:
            responses: One response per request, in the order of `requests`; of all items, or of
                the first few.

        Raises:
            EvaluationError: A score is not finite, or generated code could not be run.
        """
        total: float
        items: Sequence[float]
        if runs_generated_code(self._task):
            # Filters, metrics and aggregations: any of them may be what runs it.
            scored = functools.partial(self._scored, responses)
            ends = itertools.accumulate(len(requests) for _, requests in self._of_item)
            count = sum(end <= len(responses) for end in ends)
            total, items = score_in_sandbox(self.name, scored, len(responses), count)
        else:
            total, items = self._scored(responses)
        texts = [each for each in responses if isinstance(each, str)]
        return TaskScore(
            task=self.name,
            score=total,
            items=tuple(items),
            truncated=_mean([isinstance(each, Truncated) for each in texts]),
            sureness=_mean(self._sureness(responses)),
        )

    def _sureness(self, responses: Sequence[Any]) -> list[float]:
        """How sure the model is of the right choice, for each item that is one of choices."""
        given, found = iter(responses), []
        for (_, requests), right in zip(self._of_item, self._right, strict=True):
            answers = list(itertools.islice(given, len(requests)))
            if answers and right:
                found.append(right.sureness(answers))
        return found

    def _scored(self, responses: Sequence[Any]) -> tuple[float, Sequence[float]]:
        """The score of the task and of each item, by lm-eval's functions."""
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
            raw[position] = self._value(self._task.process_results(requests[0].doc, answers))
        aggregate = self._task.aggregation()[self._metric]
        # In the order in which lm-eval adds up, so that the last bits are the same.
        total = aggregate([raw[position] for position in sorted(raw)])
        # An item of a perplexity is a log-likelihood, whose sign points the other way.
        sign = -1.0 if aggregate.__name__ in PERPLEXITIES else 1.0
        return float(total), [sign * _item_score(value) for value in raw.values()]

    def _value(self, results: Mapping[str, Any]) -> Any:
        # A metric may give its value a name of its own: humaneval's pass_at_k gives pass@1.
        if self._metric not in results and len(results) == 1:
            return next(iter(results.values()))
        if self._metric not in results:
            raise TaskError(
                f"task {self.name}: metric {self._metric} gives {', '.join(map(str, results))}; "
                "it must give one value"
            )
        return results[self._metric]

    def _refuse_prompts(self) -> None:
        spec = self._spec
        given = {
            "num_fewshot": spec.num_fewshot,
            "system_instruction": spec.system_instruction,
            "chat_template": spec.chat_template,
        }
        for name, value in given.items():
            if value:
                raise TaskError(f"task {self.name}: {name}: texts have no prompts; leave it out")

    def _refuse_other_generation(self, settings: Mapping[str, Any]) -> None:
        if settings.get("do_sample"):
            raise TaskError(
                f"task {self.name}: asks for random sampling; scores would not be repeatable, "
                "set do_sample: false in its generation_kwargs"
            )
        unknown = sorted(settings.keys() - GREEDY)
        if unknown:
            raise TaskError(
                f"task {self.name}: generation_kwargs: {unknown[0]} is not followed here; known: "
                f"{', '.join(sorted(GREEDY))}"
            )

    def _set_generation(self, settings: Mapping[str, Any]) -> None:
        if self._task.get_config("output_type") != "generate_until":
            raise TaskError(
                f"task {self.name}: generation: it generates nothing; leave the settings out"
            )
        self._task.set_config("generation_kwargs", dict(settings), update=True)

    def _choose_metric(self, wanted: str | None) -> tuple[str, str]:
        known = list(self._task.aggregation())
        filters = [each.name for each in self._task._filters]  # noqa: SLF001 (no public way)
        metric, _, chosen_filter = (wanted or known[0]).partition(",")
        if metric not in known:
            raise TaskError(
                f"task {self.name}: has no metric {metric!r}{did_you_mean(metric, known)}; "
                f"it has: {', '.join(known)}"
            )
        if chosen_filter and chosen_filter not in filters:
            raise TaskError(
                f"task {self.name}: has no filter {chosen_filter!r}; it has: {', '.join(filters)}"
            )
        return metric, chosen_filter or filters[0]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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
