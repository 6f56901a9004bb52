"""A planted landscape of models: two tasks disagree, and their items ask for different layers.

A model is a few numbers in every layer. Lineages are merged by the operators themselves, so that
children may be better than their parents.
"""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import torch
from operating import draw, merge
from planted import TENSOR, Silent, planted_genome

from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import Evaluated, TaskScore, Timing
from evomerge.genome.baselines import starting_candidates
from evomerge.genome.genome import Genome
from evomerge.layout import Place
from evomerge.operators.registry import find_operator
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import STRATEGIES, build_strategy
from evomerge.store.schema import STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evomerge.executors.contract import Executor
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy
    from evomerge.store.database import RunStore

LAYERS, ENTRIES = 4, 12
SHAPE = (LAYERS, ENTRIES)
NAMES = ("a", "b", "c", "d")

MODELS = {
    # From zeros a model and its task vector are the same.
    "base": torch.zeros(SHAPE),
    **{name: draw(SHAPE, seed) for seed, name in enumerate(NAMES)},
}
TARGETS = {
    "left": 0.6 * MODELS["a"] + 0.8 * MODELS["b"],
    "right": 0.6 * MODELS["a"] + 0.8 * MODELS["c"],
}
OBJECTIVE = Objective(
    weights=dict.fromkeys(TARGETS, 1.0), higher_is_better=dict.fromkeys(TARGETS, True)
)

PLANNED = 40
"""Candidates that strategies plan for; half-way through, some of them begin anew."""

every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))
either_way = pytest.mark.parametrize("steady", [False, True], ids=["generations", "steady"])

_merged: dict[str, Tensor] = {}
_decoded: dict[tuple[float, ...], MergeRecipe] = {}


class _Decoded(Genome):
    """A genome that keeps its recipes: what follows from a point alone is made once."""

    def decode(self, genotype: Sequence[float]) -> MergeRecipe:
        point = tuple(genotype)
        if point not in _decoded:
            _decoded[point] = super().decode(point)
        return _decoded[point]


_plain = planted_genome(sources=NAMES, texts="texts.txt")
GENOME = _Decoded(**{each.name: getattr(_plain, each.name) for each in fields(_plain)})

STARTING = {
    each.recipe.digest for each in starting_candidates(GENOME.base, GENOME.sources, GENOME.dtype)
}
"""Digests of the starting candidates."""


def some_fail(recipe: MergeRecipe) -> bool:
    """Whether a recipe is one of the eighth of those proposed that fail."""
    return recipe.digest not in STARTING and recipe.digest[0] in "06"


def file_in_memory(tables: bool = True) -> sqlite3.Connection:
    """The file of a store, in memory: nothing waits for a disk."""
    file = sqlite3.connect(":memory:", isolation_level=None)
    for step in STEPS if tables else ():
        file.executescript(step)
    return file


def strategy_for_models(name: StrategyName, generation: int) -> Strategy:
    """A strategy that knows of the models what one in a run knows."""
    settings = StrategySettings(
        dimension=len(GENOME.genes),
        genes=GENOME.genes,
        sources=len(NAMES),
        objectives=len(TARGETS),
        candidates=PLANNED,
        generation=generation,
        seed=3,
    )
    return build_strategy(name, settings)


def loop_over_models(strategy: Strategy, store: RunStore, executor: Executor) -> SearchLoop:
    """The loop of a search among the models."""
    return SearchLoop(
        genome=GENOME,
        strategy=strategy,
        objective=OBJECTIVE,
        executor=executor,
        store=store,
        progress=Silent(),
    )


def model_of(recipe: MergeRecipe) -> Tensor:
    """The numbers that a recipe makes, shape `(LAYERS, ENTRIES)`."""
    if recipe.digest not in _merged:
        _merged[recipe.digest] = torch.stack([_layer(recipe, each) for each in range(LAYERS)])
    return _merged[recipe.digest]


def _layer(recipe: MergeRecipe, layer: int) -> Tensor:
    parents = [
        model_of(source.recipe) if source.recipe else MODELS[source.model or ""]
        for source in recipe.sources
    ]
    given = {}
    for key, parameter in find_operator(recipe.operator).parameters.items():
        values = tuple(
            recipe.setting(key, TENSOR.format(layer), Place(layer, "mlp"), source)
            for source in recipe.sources
        )
        values = tuple(parameter.default if each is None else each for each in values)
        given[key] = values if parameter.per_source else values[0]
    stack = torch.stack([parent[layer] for parent in parents])
    return merge(recipe.operator, stack, seed=100 * recipe.seed + layer, **given)


def landscape(recipe: MergeRecipe) -> Evaluated:
    """An item of a task is to come near the task's target in one layer."""
    model = model_of(recipe)
    scores = []
    for task, target in TARGETS.items():
        items = tuple((1 / (1 + (model - target).square().mean(1))).tolist())
        scores.append(TaskScore(task=task, score=sum(items) / LAYERS, items=items))
    return Evaluated(scores=tuple(scores), timing=Timing(merge_s=0.1, forward_s=0.2, total_s=0.3))
