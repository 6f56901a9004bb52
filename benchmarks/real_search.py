"""What searches find on real models, at equal item evaluations, against the peers.

    python benchmarks/real_search.py recipes/quickstart.yaml --out runs/real [--peers FOLDER]

The sources and tasks are the recipe's, and so is the genome: mergekit-evolve's (weights of task
arithmetic by layer group) reaches the same merges. Every search has the item evaluations of 200
candidates; the starting candidates count for ours and are given to the peers for nothing. Each
seed draws search and held-out items anew. After a quarter, a half, three quarters and all of the
evaluations, each search's choice is scored on the held-out items: ours choose as `finish_search`
does, the peers take the best by the search items. Differences from the choice of one search
(`--against`) are paired item by item; intervals are bootstrapped over documents, of which each may
occur with several seeds.

A run that was cut off goes on where it stopped. mergenetic's algorithm needs pymoo: if the
environment has none, name the folder of packages of one that does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections import defaultdict, deque
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from silence import Silence

from evomerge.evaluation.scores.outcome import Evaluated, TaskScore
from evomerge.executors.contract import Job
from evomerge.executors.ray import one_ray
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.search import SearchRecipe, Stop
from evomerge.run.finish.finalists import FINALISTS
from evomerge.run.finish.finish import compare_scores
from evomerge.run.loop.incumbents import ranked
from evomerge.run.preparation.prepare import prepare_search
from evomerge.run.preparation.search_file import read_search
from evomerge.run.preparation.workers import build_executor
from evomerge.run.search import start_or_continue
from evomerge.search.strategies import STRATEGIES
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evomerge.evaluation.scores.outcome import Split
    from evomerge.executors.contract import Executor
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.search.contract import Point, Result, Strategy, StrategySettings
    from evomerge.store.records import Entry

CANDIDATES, CHECKPOINTS = 200, (0.25, 0.5, 0.75, 1.0)
PEER, GENETIC = "mergekit-evolve", "mergenetic GA"
SEARCHES = ("CMA", PEER, "random", GENETIC)
STARTS = "generation zero"
RESAMPLES = 10_000

Scores = tuple[TaskScore, ...]


def main() -> None:
    """Search, score the choices, and print a table per checkpoint."""
    options = _options()
    if options.peers:
        sys.path.append(str(options.peers))
    file = read_search(options.recipe, options.set)
    choices: dict[tuple[int, str, float], Scores] = {}
    documents: dict[int, list[tuple[str, int]]] = {}
    searches: list[PreparedSearch] = []
    for seed in options.seeds:
        evaluation = file.recipe.evaluation
        items = evaluation.items.model_copy(update={"seed": seed})
        update = {"evaluation": evaluation.model_copy(update={"items": items})}
        recipe = file.recipe.model_copy(update=update)
        search = prepare_search(recipe, file.root)[0]
        searches.append(search)
        genes = len(search.genome.genes)
        runs = {
            name: _search(name, seed, recipe, file.root, options.out, genes)
            for name in options.only
        }
        documents[seed] = [(each.task, place) for each in search.items for place in each.held_out]
        # The next seed's search starts a Ray of its own, with as many workers as it wants.
        with one_ray(), closing(Scored(options.out / f"choices-{seed}.json", search)) as scored:
            for name, run in runs.items():
                choices |= {
                    (seed, each, share): scores
                    for each, share, scores in chosen(name, run, search, scored)
                }
    report = table(choices, documents, searches[-1], options.against)
    (options.out / "table.txt").write_text(report + "\n")
    print(report)


def _search(name: str, seed: int, recipe: SearchRecipe, root: Path, out: Path, genes: int) -> Path:
    """Search with one strategy, as a user would; returns the run folder."""
    per_candidate = recipe.evaluation.items.search * len(recipe.evaluation.tasks)
    update: dict[str, Any] = {"seed": seed, "generation": 16}
    # Those that are stopped early leave items for more candidates.
    stop, racing, candidates = Stop(items=CANDIDATES * per_candidate), True, 2 * CANDIDATES
    standing_in: dict[str, Any] = {}
    if name in PEERS:
        population_of, standing_in["OnePlusOne"] = PEERS[name]
        starts = 4 + len(recipe.sources)
        candidates, stop, racing = CANDIDATES + starts, Stop(), False
        update |= {"strategy": "OnePlusOne", "generation": population_of(genes)}
    else:
        update |= {"strategy": name}
    update |= {"candidates": candidates, "stop": stop}
    evaluation = recipe.evaluation
    if not racing:
        evaluation = evaluation.model_copy(update={"racing": None})
    recipe = recipe.model_copy(
        update={"search": recipe.search.model_copy(update=update), "evaluation": evaluation}
    )
    run = out / f"{name.replace(' ', '-')}-{seed}"
    print(run.name, file=sys.stderr, flush=True)
    # A recipe cannot name a peer: it takes a strategy's place meanwhile.
    with patch.dict(STRATEGIES, standing_in):
        start_or_continue(recipe, root, run, Silence(), lambda _: None)
    return run


class MergekitEvolve:
    """mergekit-evolve's search: `cma` with its defaults, in the space of the weights.

    From the uniform average with a step of 1/6 and without bounds; negative weights count as
    positive.
    """

    def __init__(self, settings: StrategySettings) -> None:
        import cma

        self._genes = settings.genes
        start = [1 / settings.sources] * settings.dimension
        options = {"seed": settings.seed + 1, "verbose": -9, "verb_log": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimizer = cma.CMAEvolutionStrategy(start, 1 / 6, options)
        self._waiting: deque[Any] = deque()
        self._asked: list[Any] = []
        self._told: list[float] = []

    def ask(self, count: int) -> list[Point]:
        """The next weights, in the coordinates of the genome."""
        while len(self._waiting) < count:
            self._asked = self._optimizer.ask()
            self._waiting += self._asked
        weights = [np.abs(self._waiting.popleft()) for _ in range(count)]
        return [
            tuple(
                float(np.clip((weight - gene.low) / (gene.high - gene.low), 0.0, 1.0))
                for gene, weight in zip(self._genes, each, strict=True)
            )
            for each in weights
        ]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from a population once it is complete."""
        self._told += [
            math.inf if result.fitness is None else -result.fitness for result in results
        ]
        if len(self._told) == len(self._asked):
            self._optimizer.tell(self._asked, self._told)
            self._told = []


class MergeneticGA:
    """mergenetic's genetic algorithm: pymoo's, with its defaults."""

    def __init__(self, settings: StrategySettings) -> None:
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        self._algorithm: Any = GA(
            pop_size=settings.generation, crossover=SBX(), mutation=PM(), eliminate_duplicates=True
        )
        problem = Problem(n_var=settings.dimension, n_obj=1, xl=0.0, xu=1.0)
        self._algorithm.setup(
            problem, termination=("n_gen", 10**6), seed=settings.seed, verbose=False
        )
        self._asked: Any = None

    def ask(self, count: int) -> list[Point]:
        """The next population."""
        self._asked = self._algorithm.ask()
        return [tuple(point) for point in self._asked.get("X").tolist()[:count]]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from a population, unless the budget has cut it short."""
        if len(results) == len(self._asked):
            self._asked.set("F", np.array([[-(each.fitness or 0.0)] for each in results]))
            self._algorithm.tell(infills=self._asked)


PEERS: dict[str, tuple[Callable[[int], int], Callable[[StrategySettings], Strategy]]] = {
    # cma's usual population, and mergenetic's.
    PEER: (lambda genes: 4 + int(3 * math.log(genes)), MergekitEvolve),
    GENETIC: (lambda _: 20, MergeneticGA),
}
"""Their populations, by the number of genes, and how they are built."""


@dataclass
class Scored:
    """Scores of what was chosen, kept in a file.

    Attributes:
        file: The file.
        search: What the workers are built from.
    """

    file: Path
    search: PreparedSearch

    def __post_init__(self) -> None:
        known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._known: dict[str, list[dict[str, Any]]] = known
        self._executor: Executor | None = None

    def __call__(self, recipe: MergeRecipe, split: Split) -> Scores:
        """A recipe's scores on all items of a split."""
        key = f"{digest(recipe)} {split}"
        if key not in self._known:
            self._executor = self._executor or build_executor(self.search, 1, 1)
            self._executor.submit(Job(number=0, recipe=recipe, split=split))
            _, outcome = self._executor.collect()
            if not isinstance(outcome, Evaluated):
                raise RuntimeError(f"what was chosen fails: {outcome.reason}")
            self._known[key] = [asdict(score) for score in outcome.scores]
            self.file.write_text(json.dumps(self._known))
        return tuple(
            TaskScore(**score | {"items": tuple(score["items"])}) for score in self._known[key]
        )

    def close(self) -> None:
        """Stop the worker."""
        if self._executor:
            self._executor.close()


def chosen(
    name: str, run: Path, search: PreparedSearch, scored: Scored
) -> list[tuple[str, float, Scores]]:
    """What a search would choose at each checkpoint, scored on held-out items."""
    with closing(RunStore.open_for_reading(run / "run.sqlite")) as store:
        entries = [entry for entry in store.entries() if entry.candidate.number >= 0]
    started = [entry for entry in entries if entry.candidate.generation == 0]
    budget = CANDIDATES * sum(len(each.search) for each in search.items)
    paid = entries if name not in PEERS else entries[len(started) :]
    found = []
    for share in CHECKPOINTS:
        known, spent = [], 0
        for entry in paid:
            outcome = entry.outcome
            scores = outcome.scores if isinstance(outcome, Evaluated) else ()
            spent += sum(len(score.items) for score in scores)
            if spent <= share * budget:
                known.append(entry)
        whole = ranked((entry for entry in known if entry.searched), search.objective)
        recipe = _recipe(whole[0]) if name in PEERS else _finish(whole, search, scored)
        found.append((name, share, scored(recipe, "held_out")))
    if name not in PEERS:
        baselines = [entry for entry in started if entry.candidate.kind == "baseline"]
        best = _recipe(ranked(baselines, search.objective)[0])
        found.append((STARTS, 1.0, scored(best, "held_out")))
    return found


def _finish(whole: list[Entry], search: PreparedSearch, scored: Scored) -> MergeRecipe:
    """What `finish_search` would make the winner."""
    first = next(e for e in whole if e.candidate.kind in ("baseline", "offspring"))
    elites = [entry for entry in whole if entry.candidate.genotype][:FINALISTS]
    if first.candidate.kind == "baseline" or len(elites) < 2:
        return _recipe(first)
    points = np.array([entry.candidate.genotype for entry in elites])
    mean = search.genome.decode(points.mean(axis=0).tolist())
    lead = compare_scores(first.searched, scored(mean, "search"), search.objective)
    return _recipe(first) if lead.verdict == "better" else mean


def _recipe(entry: Entry) -> MergeRecipe:
    return MergeRecipe.model_validate_json(entry.candidate.recipe)


def table(
    choices: dict[tuple[int, str, float], Scores],
    documents: dict[int, list[tuple[str, int]]],
    search: PreparedSearch,
    against: str,
) -> str:
    """One table per checkpoint: held-out scores by seed, and differences from one search's."""
    seeds = list(documents)
    names = list(dict.fromkeys(name for _, name, _ in choices))
    lines = []
    for share in CHECKPOINTS:
        lines.append(f"{share:.0%} of {CANDIDATES} candidates' items, seeds {seeds}")
        lines.append(f"{'search':<20}held-out, by seed        minus {against}, all of its items")
        for name in names:
            scores = [choices.get((seed, name, share)) for seed in seeds]
            known = [each for each in scores if each]
            if len(known) < len(seeds):
                continue
            shown = " ".join(f"{search.objective.fitness(each):.3f}" for each in known)
            rivals = [choices.get((seed, against, 1.0)) for seed in seeds]
            low, mean, high = (
                difference(known, [each or () for each in rivals], list(documents.values()))
                if all(rivals)
                else (math.nan,) * 3
            )
            lines.append(f"{name:<20}{shown:<25}{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append("")
    return "\n".join(lines)


def difference(
    first: Sequence[Scores],
    second: Sequence[Scores],
    documents: Sequence[Sequence[tuple[str, int]]],
) -> tuple[float, float, float]:
    """The mean difference over seeds, between the ends of its 95 % interval.

    Args:
        first: Of each seed, scores of one search's choice.
        second: Of each seed, scores of another's.
        documents: Of each seed, the document of each item, in the order of the tasks.
    """
    of_document: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one, other, drawn in zip(first, second, documents, strict=True):
        items = [
            a - b
            for mine, theirs in zip(one, other, strict=True)
            for a, b in zip(mine.items, theirs.items, strict=True)
        ]
        for document, value in zip(drawn, items, strict=True):
            of_document[document].append(value)
    sums = np.array([sum(values) for values in of_document.values()])
    counts = np.array([len(values) for values in of_document.values()])
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(sums.sum() / counts.sum()), float(high)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=SEARCHES)
    parser.add_argument("--against", default=PEER, help="search that differences are taken from")
    parser.add_argument("--peers", type=Path, help="folder of packages that has pymoo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
