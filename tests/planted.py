"""A planted search: an executor whose best recipe is known, so that no model is needed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import Evaluated, Failed, Outcome, TaskScore, Timing
from evomerge.genome.build import build_genome
from evomerge.layout import Place
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.space import GenomeSpace
from evomerge.run.finish.finish import finish_search
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from evomerge.evaluation.tasks.items import TaskItems
    from evomerge.executors.contract import Job
    from evomerge.genome.genome import Genome
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy
    from evomerge.store.records import Entry

OPTIMUM = 0.7
TENSOR = "model.layers.{}.mlp.up_proj.weight"
OBJECTIVE = Objective(weights={"planted": 1.0}, higher_is_better={"planted": True})


class Crash(Exception):  # noqa: N818 (it stands for a dead process, not for an error)
    """The process is gone."""


def planted_genome(
    layer_groups: int = 2, sources: Sequence[str] = ("a", "b"), *, texts: str | None = None
) -> Genome:
    """A genome of sources with such names."""
    return build_genome(
        base="base",
        sources=[Source(model=name, name=name) for name in sources],
        space=GenomeSpace(layer_groups=layer_groups),
        tensors=[TENSOR.format(layer) for layer in range(4)],
        dtype="base",
        seed=0,
        calibration=CalibrationSettings(texts=texts) if texts else None,
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
        score: What becomes of the others.
        jobs: What was evaluated.
        waiting: What is to be evaluated.
        gpus: GPUs of each worker.
    """

    crash_after: int | None = None
    fails: Callable[[MergeRecipe], bool] = lambda _: False
    score: Callable[[MergeRecipe], Evaluated] = lambda recipe: evaluated(planted_score(recipe))
    jobs: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    workers: int = 1
    gpus: float = 0.0

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
                yield job, self.score(job.recipe)

    def close(self) -> None:
        pass


@dataclass
class AnyOrder(PlantedExecutor):
    """Is done with candidates in an order of chance.

    Attributes:
        seed: Seeds the order.
        most: How many were under way at a time, at most.
    """

    seed: int = 0
    most: int = 0

    def collect(self) -> tuple[Job, Outcome]:
        self.most = max(self.most, len(self.waiting))
        chance = np.random.default_rng((self.seed, len(self.jobs)))
        self.waiting.append(self.waiting.pop(int(chance.integers(len(self.waiting)))))
        return super().collect()


def planted_search(
    file: Path,
    executor: PlantedExecutor,
    strategy: StrategyName | Strategy = "CMA",
    *,
    candidates: int,
    generation: int,
    objective: Objective = OBJECTIVE,
    items: Sequence[TaskItems] = (),
    finish: bool = False,
    **course: Any,
) -> tuple[list[Entry], str | None]:
    """Search in a store, or go on there.

    Args:
        file: The store; made when absent.
        executor: Scores recipes.
        strategy: The strategy, or its name.
        candidates: See `SearchLoop.run`.
        generation: See `SearchLoop.run`.
        objective: What is maximised.
        items: The store's items, when it is made.
        finish: Whether the winner is found, too.
        course: Other arguments of `SearchLoop.run`.

    Returns:
        All entries, and why it stopped early.
    """
    genome = planted_genome()
    if isinstance(strategy, str):
        settings = StrategySettings(
            dimension=len(genome.genes), generation=generation, seed=3, candidates=candidates
        )
        strategy = build_strategy(strategy, settings)
    known = file.exists()
    with closing(RunStore.open_for_writing(file) if known else RunStore.create(file)) as store:
        if not known:
            store.write_facts({}, items)
        loop = SearchLoop(
            genome=genome,
            strategy=strategy,
            objective=objective,
            executor=executor,
            store=store,
            progress=Silent(),
        )
        reason = loop.run(candidates, generation, **course)
        if finish:
            finish_search(store, executor, objective, Silent(), genome)
        return store.entries(), reason


class Silent:
    """A progress that shows nothing."""

    def measured(self, what: str, done: int, total: int) -> None:
        pass

    def evaluated(self, entry: Entry, total: int) -> None:
        pass

    def known(self, entries: Sequence[Entry]) -> None:
        pass

    def compared(self, done: int, total: int, on: str) -> None:
        pass
