"""What strategies cost besides evaluation: a candidate's ask and tell, and a replay of a store.

    python benchmarks/strategy_speed.py [--only CMA DE] [--candidates 100000]

Asked is for 1,600 points of 96 dimensions, in generations of 16, told a sphere with a task for
each half of the dimensions and 100 items. The median over generations is printed in milliseconds
per candidate, without the import of libraries. The replay is of a store with 100,000 candidates,
made by the search loop itself, of 4 genes and 8 items: opened, asked and told as when a run is
resumed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from silence import Silence

from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import Evaluated, TaskScore, Timing
from evomerge.genome.build import build_genome
from evomerge.recipe.merge import Source
from evomerge.recipe.space import GenomeSpace
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import Finished, Result, StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.genome.genome import Genome

GENERATION, GENERATIONS, ITEMS = 16, 100, 100
LAYERS = 48
"""With two sources, 96 genes."""
TENSOR = "model.layers.{}.mlp.up_proj.weight"
OBJECTIVE = Objective(weights={"planted": 1.0}, higher_is_better={"planted": True})


def main() -> None:
    """Print one line per strategy, and one per replayed store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[*(STRATEGIES.keys() - BREEDERS.keys())])
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--replay", nargs="*", default=["random", "DE"])
    parser.add_argument("--folder", type=Path, help="for the store; in memory, say")
    options = parser.parse_args()
    print("strategy        ask  tell  ask + tell, ms per candidate")
    for name in sorted(options.only):
        asking, telling = asks_and_tells(name)
        print(f"{name:<12} {asking:>6.3f} {telling:>5.3f} {asking + telling:>6.3f}")
    for name in options.replay:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            file = Path(folder) / "run.sqlite"
            made, stored = timed_search(file, name, options.candidates)
            replayed, asked = timed_search(file, name, options.candidates)
            size = file.stat().st_size / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(
            f"{name}: a store with {stored:,} different candidates ({size:.0f} MB) was made in "
            f"{made:.1f} s and replayed in {replayed:.1f} s, {asked} evaluated, {peak:.0f} MB"
        )


def asks_and_tells(name: str) -> tuple[float, float]:
    """Milliseconds per candidate."""
    genome = planted_genome(LAYERS)
    settings = StrategySettings(
        dimension=len(genome.genes),
        generation=GENERATION,
        seed=0,
        genes=genome.genes,
        objectives=2,
        candidates=GENERATION * GENERATIONS,
    )
    strategy = STRATEGIES[name](settings)
    rng = np.random.default_rng(0)
    asking, telling = [], []
    for _ in range(GENERATIONS):
        start = time.perf_counter()
        try:
            points = strategy.ask(GENERATION)
        except Finished:
            break
        asked = time.perf_counter()
        results = [_result(np.array(point), rng) for point in points]
        before = time.perf_counter()
        strategy.tell(results)
        telling.append(time.perf_counter() - before)
        asking.append(asked - start)
    return 1e3 * median(asking) / GENERATION, 1e3 * median(telling) / GENERATION


def _result(point: np.ndarray[Any, Any], rng: np.random.Generator) -> Result:
    halves = [1 - float(((half - 0.7) ** 2).mean()) for half in np.split(point, 2)]
    items = tuple((rng.random(ITEMS) < np.repeat(halves, ITEMS // 2)).astype(float).tolist())
    return Result(fitness=sum(halves) / 2, scores=tuple(halves), items=items)


def timed_search(file: Path, name: str, candidates: int) -> tuple[float, int]:
    """Seconds of a search in a store, and how many candidates had to be evaluated."""
    start = time.perf_counter()
    genome, executor = planted_genome(2), Sphere()
    settings = StrategySettings(
        dimension=len(genome.genes), generation=GENERATION, seed=0, genes=genome.genes
    )
    known = file.exists()
    with closing(RunStore.open_for_writing(file) if known else RunStore.create(file)) as store:
        loop = SearchLoop(
            genome=genome,
            strategy=STRATEGIES[name](settings),
            objective=OBJECTIVE,
            executor=executor,
            store=store,
            progress=Silence(),
        )
        loop.run(candidates, GENERATION)
    return time.perf_counter() - start, executor.evaluated


def planted_genome(groups: int) -> Genome:
    """Two genes per layer group."""
    return build_genome(
        base="base",
        sources=[Source(model="a", name="a"), Source(model="b", name="b")],
        space=GenomeSpace(layer_groups=groups),
        tensors=[TENSOR.format(layer) for layer in range(LAYERS)],
        dtype="base",
        seed=0,
    )


class Sphere:
    """An executor that takes no time."""

    workers = 1
    gpus = 0.0

    def __init__(self) -> None:
        self.evaluated = 0
        self._waiting: list[Job] = []

    def submit(self, job: Job) -> None:
        """Remember a job."""
        self._waiting.append(job)

    def collect(self) -> tuple[Job, Outcome]:
        """The oldest job, with a score that its number decides."""
        job = self._waiting.pop(0)
        self.evaluated += 1
        score = (job.number * 7919 % 1000) / 1000
        task = TaskScore(task="planted", score=score, items=(score,) * 8)
        return job, Evaluated(scores=(task,), timing=Timing(merge_s=0, forward_s=0, total_s=0))

    def close(self) -> None:
        """There is nothing to stop."""


if __name__ == "__main__":
    main()
