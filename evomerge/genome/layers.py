"""Layer groups, and the rules that tell the parts of a model apart."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.layout import Component, layer_count, locate
from evomerge.recipe.merge import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.genome.genes import Part
    from evomerge.recipe.space import GenomeSpace, LayerGroups


def layer_bounds(layers: int, groups: int) -> list[tuple[int, int]]:
    """Cut layers into runs whose lengths differ by at most one, as half-open ranges."""
    cuts = [round(index * layers / groups) for index in range(groups + 1)]
    return list(pairwise(cuts))


def group_bounds(layers: int, groups: LayerGroups) -> list[tuple[int, int]]:
    """The layers of each group of a search space, as half-open ranges.

    Raises:
        RecipeError: The model has fewer layers, or the groups do not add up to them.
    """
    if isinstance(groups, tuple):
        if sum(groups) != layers:
            raise RecipeError(
                f"genome.layer_groups: {list(groups)} add up to {sum(groups)} layers, but the "
                f"model has {layers}"
            )
        return list(pairwise(accumulate(groups, initial=0)))
    count = layers if groups == "each" else groups
    if not 0 < count <= layers:
        raise RecipeError(f"genome.layer_groups: {groups}, but the model has {layers} layers")
    return layer_bounds(layers, count)


def rules_of_parts(space: GenomeSpace, tensors: Sequence[str]) -> tuple[tuple[Part, Rule], ...]:
    """The rules that some tensor needs, and the part of the model that each speaks about.

    Tensors outside the layers go with a neighbour: the embedding with the first layer group, all
    others with the last.

    Raises:
        RecipeError: The layer groups do not fit the model.
    """
    bounds = group_bounds(layer_count(tensors), space.layer_groups)
    components = (*space.components, None)
    last = len(bounds) - 1
    inside = [((group, c), layers, c) for group, layers in enumerate(bounds) for c in components]
    outside = [((0 if c is Component.EMBEDDING else last, c), None, c) for c in space.components]
    shared = [((0, None), None, Component.EMBEDDING), ((last, None), None, None)]
    rules = [
        (part, Rule(value=0.0, layers=layers, component=component))
        for part, layers, component in (*inside, *outside, *shared)
    ]
    needed = {
        next(index for index, (_, rule) in enumerate(rules) if rule.applies("", place))
        for place in set(map(locate, tensors))
    }
    return tuple(rules[index] for index in sorted(needed))
