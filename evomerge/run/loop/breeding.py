"""Individuals: what strategies ask for, as merge recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.genome.baselines import alone
from evomerge.recipe.digest import digest
from evomerge.recipe.lineage import MAX_DEPTH, MAX_INNER, ancestry
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.search.contract import Breeding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evomerge.genome.genome import Genome
    from evomerge.search.contract import Point, Proposal


class Individuals:
    """The sources, and what was asked for so far.

    Args:
        genome: Has the sources, and turns points into recipes.
    """

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        # What is bred for one child only may be a parent of the next one's parent.
        self._unnumbered: dict[int, tuple[Breeding, MergeRecipe]] = {}
        sources = [alone(genome.base, each, genome.dtype) for each in genome.sources]
        self._sources = tuple(map(digest, sources))
        # Points are kept as such: a long search has many, and few or none are parents.
        self._made: list[MergeRecipe | Point] = [*sources]

    def add(self, proposal: Proposal) -> MergeRecipe:
        """Make an individual of a proposal, numbered after all others.

        A child whose ancestors would be more than a recipe may hold is its first parent again.
        Averages of averages hold no ancestors: they are averages of the sources.
        """
        if isinstance(proposal, int):
            self._made.append(self._made[proposal])
        elif isinstance(proposal, Breeding):
            self._made.append(self._bred(proposal))
        else:
            self._made.append(proposal)
        return self._recipe(len(self._made) - 1)

    def _recipe(self, number: int) -> MergeRecipe:
        made = self._made[number]
        return made if isinstance(made, MergeRecipe) else self._genome.decode(made)

    def parents(self, proposal: Proposal) -> tuple[str, ...]:
        """Digests of what a proposal is made from: its parents, else the sources it merges."""
        if isinstance(proposal, int):
            return (digest(self._recipe(proposal)),)
        if isinstance(proposal, Breeding):
            numbers = _numbers(proposal, set())
            return tuple(dict.fromkeys(digest(self._recipe(number)) for number in numbers))
        return tuple(self._sources[index] for index in self._genome.taken(proposal))

    def _parent(self, parent: int | Breeding) -> MergeRecipe:
        if not isinstance(parent, Breeding):
            return self._recipe(parent)
        if id(parent) not in self._unnumbered:
            self._unnumbered[id(parent)] = (parent, self._bred(parent))
        return self._unnumbered[id(parent)][1]

    def _bred(self, breeding: Breeding) -> MergeRecipe:
        recipes = [self._parent(parent) for parent in breeding.parents]
        averages = [_weights(recipe) for recipe in recipes]
        if breeding.operator == "linear" and not breeding.parameters and all(averages):
            return self._average(averages)
        inner = [recipe for recipe in recipes if not _is_source(recipe)]
        deep = 1 + max((recipe.depth for recipe in inner), default=0)
        distinct = {recipe.digest for recipe in (*inner, *ancestry(inner))}
        if deep > MAX_DEPTH or len(distinct) > MAX_INNER:
            return recipes[0]
        sources = [_as_source(recipe) for recipe in recipes]
        originals = [self._genome.sources[index] for index in breeding.measured_as]
        return MergeRecipe(
            base=self._genome.base,
            sources=tuple(map(_standing_for, sources, originals))
            if originals
            else _named_apart(sources),
            operator=breeding.operator,
            parameters=dict(breeding.parameters),
            dtype=self._genome.dtype,
            seed=breeding.seed,
            calibration=self._genome.calibration if originals else None,
        )

    def _average(self, averages: Sequence[Mapping[str, float]]) -> MergeRecipe:
        """The average of averages of models, as one average of models.

        So its lineage never grows, nothing is rounded on the way, and the same model has the same
        digest whatever it was made from.
        """
        shares: dict[str, float] = {}
        for weights in averages:
            total = sum(weights.values()) * len(averages)
            for label, weight in weights.items():
                shares[label] = shares.get(label, 0.0) + weight / total
        alike = len(set(shares.values())) == 1
        sources = tuple(
            source.model_copy(
                update={"parameters": {} if alike else {"weight": shares[source.label]}}
            )
            for source in self._genome.sources
            if source.label in shares
        )
        return MergeRecipe(
            base=self._genome.base, sources=sources, operator="linear", dtype=self._genome.dtype
        )


def _weights(recipe: MergeRecipe) -> dict[str, float]:
    """The weights of models by their names, if a recipe averages models; else none."""
    found = {
        source.label: source.parameters.get("weight", 1.0)
        for source in recipe.sources
        if source.model is not None
    }
    plain = {label: each for label, each in found.items() if isinstance(each, float) and each > 0}
    averages = recipe.operator == "linear" and not recipe.parameters
    return plain if averages and len(plain) == len(recipe.sources) else {}


def _numbers(breeding: Breeding, seen: set[int]) -> Iterator[int]:
    """The individuals that a model is bred from, be it by way of others without a number."""
    for parent in breeding.parents:
        if not isinstance(parent, Breeding):
            yield parent
        elif id(parent) not in seen:
            seen.add(id(parent))
            yield from _numbers(parent, seen)


def _is_source(recipe: MergeRecipe) -> bool:
    """Whether a recipe is a source as it is."""
    return recipe.operator == "linear" and len(recipe.sources) == 1


def _as_source(recipe: MergeRecipe) -> Source:
    return recipe.sources[0] if _is_source(recipe) else Source(recipe=recipe)


def _standing_for(source: Source, original: Source) -> Source:
    """What is merged in place of a source of the search, which is measured instead of it."""
    measured_as = None if source.model == original.model else original.model
    return source.model_copy(update={"name": original.label, "measured_as": measured_as})


def _named_apart(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources, of which those that are there twice get names of their own."""
    labels = [source.label for source in sources]
    return tuple(
        source.model_copy(update={"name": f"{source.label[:60]} {number}"})
        if labels.count(source.label) > 1
        else source
        for number, source in enumerate(sources, start=1)
    )
