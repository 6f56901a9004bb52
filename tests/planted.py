"""A planted search: an executor whose best recipe is known, so that no model is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evomerge.evaluation.objective import Objective
from evomerge.evaluation.outcome import Evaluated, Failed, Outcome, TaskScore, Timing
from evomerge.genome.genome import Genome, build_genome
from evomerge.layout import Place
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.search import GenomeSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evomerge.executors.contract import Job
    from evomerge.store.records import Entry

OPTIMUM = 0.7
TENSOR = "model.layers.{}.mlp.up_proj.weight"
OBJECTIVE = Objective(weights={"planted": 1.0}, higher_is_better={"planted": True})


class Crash(Exception):  # noqa: N818 (it stands for a dead process, not for an error)
    """The process is gone."""


def planted_genome(layer_groups: int = 2) -> Genome:
    return build_genome(
        base="base",
        sources=[Source(model="a", name="a"), Source(model="b", name="b")],
        space=GenomeSpace(layer_groups=layer_groups),
        tensors=[TENSOR.format(layer) for layer in range(4)],
        dtype="base",
        seed=0,
    )


def planted_score(recipe: MergeRecipe) -> float:
    """Higher the nearer every layer's weights are to the optimum."""
    distance = 0.0
    for layer in range(4):
        for source in recipe.sources:
            name = TENSOR.format(layer)
            weight = recipe.setting("weight", name, Place(layer, "mlp"), source)  # type: ignore[arg-type]
            distance += (float(1.0 if weight is None else weight) - OPTIMUM) ** 2
    return 1 - distance / 8


def evaluated(score: float) -> Evaluated:
    task = TaskScore(task="planted", score=score, items=(score, score / 2))
    return Evaluated(scores=(task,), timing=Timing(merge_s=0.1, forward_s=0.2, total_s=0.3))


@dataclass
class PlantedExecutor:
    """Scores recipes by formula.

    Attributes:
        crash_after: Crash when so many outcomes were given; None never.
        fails: Which recipes fail.
        jobs: What was evaluated.
        waiting: What is to be evaluated.
    """

    crash_after: int | None = None
    fails: Callable[[MergeRecipe], bool] = lambda _: False
    jobs: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    workers: int = 1

    def submit(self, job: Job) -> None:
        self.waiting.append(job)

    def collect(self) -> tuple[Job, Outcome]:
        # The last first: results may come in any order.
        return next(iter(self.run([self.waiting.pop()])))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            if self.crash_after is not None and len(self.jobs) >= self.crash_after:
                raise Crash
            self.jobs.append(job)
            if self.fails(job.recipe):
                yield job, Failed(stage="merge", reason="planted failure")
            else:
                yield job, evaluated(planted_score(job.recipe))

    def close(self) -> None:
        pass


class Silent:
    """A progress that shows nothing."""

    def evaluated(self, entry: Entry, total: int) -> None:
        pass

    def known(self, entries: Sequence[Entry]) -> None:
        pass

    def compared(self, done: int, total: int) -> None:
        pass
