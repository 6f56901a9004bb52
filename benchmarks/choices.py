"""What strategies find where they choose operators and sources besides coefficients.

python benchmarks/choices.py [STRATEGY...]

One of five operators is the best, the others cost 0.03 to 0.12; three of four sources are right,
each wrong choice costs 0.04; 16 weights have optima, half of which all operators have in common.
The search sees scores with noise of 0.02. Printed are the best score without noise, with its
standard error over 24 seeds, and how often that candidate has the right operator and sources.
With `blind` strategies are not told which coordinates are choices.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple, get_args

from evomerge.genome.build import build_genome
from evomerge.layout import locate
from evomerge.recipe.merge import Source
from evomerge.recipe.search import StrategyName
from evomerge.recipe.space import GenomeSpace
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.recipe.merge import MergeRecipe

SEEDS, CANDIDATES, GENERATION, NOISE = range(1000, 1024), 200, 8, 0.02
OPERATORS = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs")
SOURCES = ("m0", "m1", "m2", "m3")
TENSORS = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]
GENOME = build_genome(
    base="base",
    sources=[Source(model=name) for name in SOURCES],
    space=GenomeSpace(
        operator=OPERATORS,
        layer_groups="each",
        drop_sources=True,
        shared={"density": ("sources", "layers")},
    ),
    tensors=TENSORS,
    dtype="base",
    seed=0,
)


class Found(NamedTuple):
    """What a candidate is worth, and whether its choices are right."""

    score: float
    operator: bool
    sources: bool


def landscape(seed: int) -> Callable[[MergeRecipe], Found]:
    """A landscape with optima of its own."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    costs = dict(zip(rng.sample(OPERATORS, 5), (0.0, 0.03, 0.06, 0.09, 0.12), strict=True))
    right = {*rng.sample(SOURCES, 3)}
    places = [(source, tensor) for source in SOURCES for tensor in TENSORS]
    common = {place: rng.uniform(0.2, 0.9) for place in places}
    own = {(o, *place): rng.uniform(0.2, 0.9) for o in OPERATORS for place in places}

    def measure(recipe: MergeRecipe) -> Found:
        away = [
            (
                recipe.setting("weight", tensor, locate(tensor), source)
                - (common[source.label, tensor] + own[recipe.operator, source.label, tensor]) / 2
            )
            ** 2
            for source in recipe.sources
            for tensor in TENSORS
        ]
        wrong = len(right ^ {source.label for source in recipe.sources})
        cost = costs[recipe.operator]
        score = 1 - cost - 0.04 * wrong - 2 * statistics.fmean(away)
        return Found(score, operator=not cost, sources=not wrong)

    return measure


def best_of(name: str, seed: int, *, blind: bool) -> Found:
    """The best candidate of one search."""
    genes = tuple(dataclasses.replace(g, choices=()) if blind else g for g in GENOME.genes)
    settings = StrategySettings(
        dimension=len(genes), generation=GENERATION, seed=seed, genes=genes, sources=len(SOURCES)
    )
    strategy, measure = STRATEGIES[name](settings), landscape(seed)
    noise = random.Random(1000 + seed)  # noqa: S311 (no secret)
    found: list[Found] = []
    for _ in range(CANDIDATES // GENERATION):
        points = strategy.ask(GENERATION)
        new = [measure(GENOME.decode(point)) for point in points if isinstance(point, tuple)]
        seen = [each.score + noise.gauss(0, NOISE) for each in new]
        strategy.tell([Result(fitness=s, scores=(s, s), items=(s,) * 6) for s in seen])
        found += new
    return max(found)


def main() -> None:
    """Print one line per strategy, informed and blind."""
    known = [name for name in get_args(StrategyName) if name not in BREEDERS]
    for name in sys.argv[1:] or known:
        for blind in (False, True):
            found = [best_of(name, seed, blind=blind) for seed in SEEDS]
            scores = [each.score for each in found]
            error = statistics.stdev(scores) / len(scores) ** 0.5
            print(
                f"{name:<12} {'blind' if blind else '':<5} {statistics.fmean(scores):.3f} "
                f"± {error:.3f}  operator {sum(each.operator for each in found):>2}, sources "
                f"{sum(each.sources for each in found):>2} of {len(found)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
