"""What became of a candidate: scores per item, or the reason why there are none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from evomerge.errors import EvaluationError

Split = Literal["search", "confirm", "held_out"]
"""Which items: the search's, these and more for finalists, those that chose nothing."""


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
        sureness: Mean probability of the right choice among the choices, which tells candidates
            with equal scores apart; None if nothing was chosen from.

    Raises:
        EvaluationError: A number is not finite. This is the one gate that NaN has to pass: a
            database would store it as nothing and a sorter might take it for the best.
    """

    task: str
    score: float
    items: tuple[float, ...]
    truncated: float | None = None
    sureness: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.score, self.sureness or 0.0, *self.items)
        broken = sum(not math.isfinite(value) for value in numbers)
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
