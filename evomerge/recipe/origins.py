"""Where every tensor of a merged model comes from, told from names alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import MergeError
from evomerge.layout import Component, Place, layer_count, locate
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.stack import Slab


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a tensor of the result comes from.

    Attributes:
        name: Its name in the result.
        place: Where it sits in the result.
        base: Its name in the base model; None if that has no such tensor.
        sources: The sources that take part, as index in the recipe and name there.
    """

    name: str
    place: Place
    base: str | None
    sources: tuple[tuple[int, str], ...]


def trace(
    recipe: MergeRecipe, base: Collection[str], sources: Sequence[Collection[str]] = ()
) -> list[Origin]:
    """Say where every tensor of a recipe's result comes from, sorted by name.

    Args:
        recipe: The recipe.
        base: Names of the base model's tensors.
        sources: Names of each source's tensors; those of the base if absent. They matter to
            recipes that stack layers only.

    Raises:
        MergeError: A slab asks for layers that a model does not have.
    """
    if recipe.stack is None:
        everyone = range(len(recipe.sources))
        origins = [
            Origin(name=n, place=locate(n), base=n, sources=tuple((i, n) for i in everyone))
            for n in base
        ]
    else:
        origins = list(_Stacker(recipe, base, sources).origins())
    return sorted(origins, key=lambda origin: origin.name)


def slab_members(recipe: MergeRecipe, slab: Slab) -> list[tuple[int, int]]:
    """The sources that take part in a slab, each as index in the recipe and first layer."""
    starts = (slab.start(source.label) for source in recipe.sources)
    return [(index, start) for index, start in enumerate(starts) if start is not None]


def base_start(recipe: MergeRecipe, slab: Slab) -> int:
    """A slab's first layer in the base model."""
    start = slab.start(BASE)
    return slab_members(recipe, slab)[0][1] if start is None else start


class _Stacker:
    def __init__(
        self, recipe: MergeRecipe, base: Collection[str], sources: Sequence[Collection[str]]
    ) -> None:
        self._recipe, self._slabs, self._base = recipe, recipe.stack or (), set(base)
        names = sources or [base] * len(recipe.sources)
        self._layers = [_by_layer(each) for each in names]
        for number, slab in enumerate(self._slabs):
            for index, start in slab_members(recipe, slab):
                self._check_range(number, index, start, start + slab.height)

    def origins(self) -> Iterator[Origin]:
        for name in self._base:
            place = locate(name)
            if place.layer is None:
                # mergekit, too, lets only embeddings follow the lowest layers.
                end = 0 if place.component is Component.EMBEDDING else -1
                members = slab_members(self._recipe, self._slabs[end])
                yield Origin(
                    name=name, place=place, base=name, sources=tuple((i, name) for i, _ in members)
                )
        bottom = 0
        for slab in self._slabs:
            for layer in range(slab.height):
                yield from self._layer(slab, layer, bottom + layer)
            bottom += slab.height

    def _layer(self, slab: Slab, layer: int, new: int) -> Iterator[Origin]:
        members = slab_members(self._recipe, slab)
        first, start = members[0]
        for name in self._layers[first][start + layer]:
            result = at_layer(name, new)
            base = at_layer(name, base_start(self._recipe, slab) + layer)
            yield Origin(
                name=result,
                place=locate(result),
                base=base if base in self._base else None,
                sources=tuple((i, at_layer(name, own + layer)) for i, own in members),
            )

    def _check_range(self, number: int, index: int, start: int, stop: int) -> None:
        found = layer_count(name for names in self._layers[index].values() for name in names)
        if stop > found:
            raise MergeError(
                f"stack.{number}: layers [{start}, {stop}] of "
                f"{self._recipe.sources[index].label}, which has {found} layers"
            )


def _by_layer(names: Collection[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in names:
        layer = locate(name).layer
        if layer is not None:
            found.setdefault(layer, []).append(name)
    return found


def at_layer(name: str, layer: int) -> str:
    """The name that a layer's tensor has in another layer."""
    return re.sub(r"(^|\.)\d+(?=\.)", rf"\g<1>{layer}", name, count=1)
