"""What became of a candidate: scores per item, or the reason why there are none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Split = Literal["search", "held_out"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """One candidate's score on one task.

    Attributes:
        task: The task's name.
        score: The task's metric over all items, as lm-eval reports it; an estimate if the
            candidate was stopped before.
        items: The metric of each item that was scored, in the frozen order of the split.
        truncated: Share of the generated answers that the limit of tokens cut off; None if nothing
            was generated.

    Raises:
        EvaluationError: A number is not finite. This is the one gate that NaN has to pass: a
            database would store it as nothing and a sorter might take it for the best.
    """

    task: str
    score: float
    items: tuple[float, ...]
    truncated: float | None = None

    def __post_init__(self) -> None:
        broken = sum(not math.isfinite(value) for value in (self.score, *self.items))
        if broken:
            raise EvaluationError(f"task {self.task}: {broken} scores are NaN or infinite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Where the seconds of one candidate went, by the wall clock."""

    merge_s: float
    forward_s: float
    total_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A candidate that was merged and scored.

    Attributes:
        scores: Its score on each task.
        timing: Where the time went.
        share: Share of the items that it was scored on; below 1 if it was stopped, because it
            could not become the best any more.
    """

    scores: tuple[TaskScore, ...]
    timing: Timing
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A candidate that could not be merged or scored.

    Attributes:
        stage: Where it failed.
        reason: What happened, in one line.
    """

    stage: Literal["merge", "evaluate", "worker"]
    reason: str


Outcome = Evaluated | Failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """How task scores become the one number that a search maximises.

    Attributes:
        weights: Share of each task.
        higher_is_better: Direction of each task's metric.
    """

    weights: Mapping[str, float]
    higher_is_better: Mapping[str, bool]

    def fitness(self, scores: Sequence[TaskScore]) -> float:
        """The weighted mean of the scores, those to be minimised with a minus sign."""
        total = sum(self.weights[score.task] for score in scores)
        return sum(self.signed_share(score.task) * score.score for score in scores) / total

    def fitness_of(self, outcome: Outcome) -> float | None:
        """The fitness of what became of a candidate; None if it failed."""
        return self.fitness(outcome.scores) if isinstance(outcome, Evaluated) else None

    def signed_share(self, task: str) -> float:
        """A task's weight, negative when lower is better."""
        return self.weights[task] if self.higher_is_better[task] else -self.weights[task]

    def signed_shares(self) -> dict[str, float]:
        """How much the score of each task adds to the fitness."""
        total = sum(self.weights.values())
        return {task: self.signed_share(task) / total for task in self.weights}
