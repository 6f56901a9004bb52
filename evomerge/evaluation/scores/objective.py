"""What a search maximises: one number made of a candidate's scores on the tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from evomerge.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.evaluation.scores.outcome import TaskScore
    from evomerge.evaluation.scores.statistics import Array

Number = TypeVar("Number", float, "Array")

ObjectiveName = Literal["mean", "recovery", "worst"]

TIE_BREAK = 1e-6
"""What full sureness adds to the fitness: less than any item does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """A number that is linear in the tasks' scores.

    Attributes:
        shares: How much the score of each task adds, negative where lower is better.
        offset: What is added to that.
    """

    shares: Mapping[str, float]
    offset: float = 0.0

    def value(self, scores: Mapping[str, Number]) -> Number:
        """The number, of scores or of arrays of them."""
        total: Any = sum(share * scores[task] for task, share in self.shares.items())
        value: Number = self.offset + total
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The best source's result on a task.

    Attributes:
        score: Its score.
        of_items: The mean score of its items; another number where the metric is no mean.
    """

    score: float
    of_items: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """How task scores become the one number that a search maximises: the least of its aims.

    `mean` is the weighted mean of the scores, those to be minimised with a minus sign. `recovery`
    measures each task by the best source on it, which recovers 1, and takes the weighted mean;
    `worst` takes the task that is recovered least.

    Attributes:
        weights: Share of each task.
        higher_is_better: Direction of each task's metric.
        name: What is maximised.
        references: The best source on each task; while they are not known, all objectives are
            the mean.
    """

    weights: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    name: ObjectiveName = "mean"
    references: Mapping[str, Reference] = field(default_factory=dict)

    @property
    def signs(self) -> dict[str, int]:
        """1 for each task whose score is to be high, -1 for each whose is to be low."""
        return {task: 1 if self.higher_is_better[task] else -1 for task in self.weights}

    @property
    def is_measured(self) -> bool:
        """Whether the sources' scores are known, or of no interest."""
        return self.name == "mean" or bool(self.references)

    def measured_by(self, sources: Sequence[Sequence[TaskScore]]) -> Objective:
        """The objective once the sources' scores are known.

        Raises:
            RunError: The best source has a score of 0 on a task, which measures nothing.
        """
        if self.name == "mean" or not sources:
            return self
        references = {}
        for scores in zip(*sources, strict=True):
            task = scores[0].task
            sign = self.signs[task]
            score = max(scores, key=lambda each: sign * each.score).score
            items = max((float(np.mean(each.items)) for each in scores), key=lambda m: sign * m)
            if score == 0 or items == 0:
                raise RunError(
                    f"evaluation.objective: {self.name} measures task {task} by the best source, "
                    "which scores 0 on it; leave the task out or use objective: mean"
                )
            references[task] = Reference(score=score, of_items=items)
        return replace(self, references=references)

    def aims(self, *, of_items: bool = False) -> tuple[Aim, ...]:
        """What must be high, each a linear function of the tasks' scores.

        Args:
            of_items: Whether they are functions of the means over items instead.
        """
        total = sum(self.weights.values())
        signs = self.signs
        if not self.references:
            return (Aim(shares={t: signs[t] * w / total for t, w in self.weights.items()}),)
        recovered = []
        for task in self.weights:
            known = self.references[task].of_items if of_items else self.references[task].score
            slope = signs[task] / abs(known)
            recovered.append(Aim(shares={task: slope}, offset=1 - slope * known))
        if self.name == "worst":
            return tuple(recovered)
        parts = {t: w / total for t, w in self.weights.items()}
        shares = {t: parts[t] * aim.shares[t] for t, aim in zip(parts, recovered, strict=True)}
        offset = sum(parts[t] * aim.offset for t, aim in zip(parts, recovered, strict=True))
        return (Aim(shares=shares, offset=offset),)

    def fitness(self, scores: Sequence[TaskScore]) -> float:
        """The number for one candidate; of equal ones, the surer one gets a trace more."""
        of_task = {score.task: score.score for score in scores}
        value = min(aim.value(of_task) for aim in self.aims())
        sure = [score.sureness for score in scores if score.sureness is not None]
        return value + TIE_BREAK * sum(sure) / len(sure) if sure else value

    def of_means(self, means: Mapping[str, Array]) -> Array:
        """The number for many sets of means over items.

        Args:
            means: Of each task, shape `(S,)`.

        Returns:
            Shape `(S,)`.
        """
        values = [aim.value(means) for aim in self.aims(of_items=True)]
        return np.asarray(np.min(values, axis=0), dtype=np.float64)
