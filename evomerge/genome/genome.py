"""The map from genotypes to merge recipes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.genome.prior import OF_TRUST, TRUST, Prior, plan_prior
from evomerge.layout import Component, layer_count, locate
from evomerge.operators.parameters import OF_BASE, OF_SOURCES
from evomerge.operators.registry import Operator, find_operator
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import Dtype, MergeRecipe, Rule, Setting, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.prior import PriorSettings
    from evomerge.recipe.search import GenomeSpace

DECIMALS = 5
"""Digits kept of a gene's value, so that recipes can be read and compared."""

Genotype = tuple[float, ...]
"""A point in the unit cube, one coordinate per gene."""

Part = tuple[int, Component | None]
"""Tensors that share genes: a layer group, and a component or None for all without their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gene:
    """One coordinate of a genotype and what it drives.

    Attributes:
        parameter: The operator parameter.
        source: Index of the source it is for; None if all sources share it.
        group: Index of the layer group.
        component: The part of the model; None for all parts without genes of their own.
        low: Value at coordinate 0.
        high: Value at coordinate 1.
    """

    parameter: str
    source: int | None
    group: int
    component: Component | None
    low: float
    high: float

    def value(self, coordinate: float) -> float:
        """The parameter's value at a coordinate in [0, 1]."""
        # Adding zero makes 0.0 of -0.0, which would be written differently.
        value = round(self.low + coordinate * (self.high - self.low), DECIMALS) + 0.0
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Genome:
    """Which recipe each point of the unit cube stands for.

    Tensors outside the layers share the genes of a neighbour: the embedding those of the first
    layer group, all others those of the last.

    Attributes:
        base: The base model.
        sources: The sources, in the order of the search recipe.
        space: Operator, groups and ranges.
        rules: The rules that tell the parts of the model apart, in the order in which they are
            tried, yet without their values.
        genes: The coordinates, in order; each drives some tensor.
        dtype: What recipes store.
        seed: Seed of stochastic operators.
        calibration: The recipes' texts, for operators that measure models.
        prior: What is known of the sources before a search.
    """

    base: str
    sources: tuple[Source, ...]
    space: GenomeSpace
    rules: tuple[tuple[Part, Rule], ...]
    genes: tuple[Gene, ...]
    dtype: Dtype
    seed: int
    calibration: CalibrationSettings | None = None
    prior: Prior | None = None

    def decode(self, genotype: Sequence[float]) -> MergeRecipe:
        """The merge recipe that a genotype stands for."""
        values = {
            (gene.parameter, gene.source, gene.group, gene.component): gene.value(coordinate)
            for gene, coordinate in zip(self.genes, genotype, strict=True)
        }
        if self.prior is not None:
            values = self.prior.applied(values, DECIMALS)
        parameters = {parameter for parameter, *_ in values}
        sources = tuple(
            source.model_copy(update={"parameters": self._settings(values, parameters, index)})
            for index, source in enumerate(self.sources)
        )
        return MergeRecipe(
            base=self.base,
            sources=sources,
            operator=self.space.operator,
            parameters={**self.space.fixed, **self._settings(values, parameters, None)},
            dtype=self.dtype,
            seed=self.seed,
            calibration=self.calibration,
        )

    def labels(self) -> list[dict[str, str]]:
        """What each gene drives, in words: `parameter`, `source`, `layers` and `component`."""
        layers = {part: rule.layers for part, rule in self.rules if rule.layers}
        found = []
        for gene in self.genes:
            if gene.parameter == TRUST:
                whole = dict.fromkeys(("source", "layers", "component"), "all")
                found.append({"parameter": TRUST, **whole})
                continue
            first, end = layers.get((gene.group, gene.component), (0, 0))
            source = "all" if gene.source is None else self.sources[gene.source].label
            found.append(
                {
                    "parameter": gene.parameter,
                    "source": source,
                    "layers": f"{first}-{end - 1}" if end else "none",
                    "component": gene.component.value if gene.component else "others",
                }
            )
        return found

    def _settings(
        self,
        values: Mapping[tuple[str, int | None, int, Component | None], float],
        parameters: set[str],
        source: int | None,
    ) -> dict[str, Setting]:
        """The parameters of one source (None: of all) as rules."""
        settings: dict[str, Setting] = {}
        for parameter in sorted(parameters):
            mine = {
                (group, component): value
                for (name, of, group, component), value in values.items()
                if name == parameter and of == source
            }
            if mine:
                settings[parameter] = self._setting(mine)
        return settings

    def _setting(self, values: Mapping[Part, float]) -> Setting:
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        return tuple(rule.model_copy(update={"value": values[p]}) for p, rule in self.rules)


def build_genome(
    *,
    base: str,
    sources: Sequence[Source],
    space: GenomeSpace,
    tensors: Iterable[str],
    dtype: Dtype,
    seed: int,
    calibration: CalibrationSettings | None = None,
) -> Genome:
    """Lay out the genes of a search space.

    Every number among the operator's parameters that has a search range, or is given one in the
    recipe, gets one gene per layer group and component, and per source where it differs by source.
    A component gets none in a group where the model has no such tensor: a head that is tied to
    the embedding has no gene.

    Args:
        base: The base model.
        sources: The models to merge.
        space: Which merges the search can reach.
        tensors: Names of the tensors that are merged.
        dtype: What recipes store.
        seed: Seeds stochastic operators.
        calibration: The recipes' texts, for operators that measure models.

    Raises:
        RecipeError: The space does not fit the operator, the sources or the layers, or there is
            nothing to search.
    """
    operator = find_operator(space.operator)
    names = list(tensors)
    _check_space(space, layer_count(names))
    _check_values(space, operator)
    _check_sources(sources)
    rules = _rules(space, names)
    parts = {part for part, _ in rules}
    genes = tuple(
        Gene(
            parameter=parameter.name,
            source=source,
            group=group,
            component=component,
            low=low,
            high=high,
        )
        for parameter, (low, high) in _searched(space, operator)
        for source in (range(len(sources)) if parameter.per_source else (None,))
        for group in range(space.layer_groups)
        for component in (*space.components, None)
        if (group, component) in parts
    )
    prior = None
    if space.prior is not None:
        searched = {gene.parameter for gene in genes}
        prior = plan_prior(space.prior, operator, searched, sources, calibration)
        genes += _gene_of_trust(space.prior)
        # The texts are the prior's; a recipe has its result, in numbers.
        calibration = calibration if operator.takes & (OF_BASE | OF_SOURCES) else None
    if not genes:
        raise RecipeError("genome: every parameter is fixed, so there is nothing to search")
    genome = Genome(
        base=base,
        sources=tuple(sources),
        space=space,
        rules=rules,
        genes=genes,
        dtype=dtype,
        seed=seed,
        calibration=calibration,
        prior=prior,
    )
    # What all recipes of a genome have in common, such as the number of sources.
    check_operator(genome.decode([0.5] * len(genes)))
    return genome


def layer_bounds(layers: int, groups: int) -> list[tuple[int, int]]:
    """Cut layers into runs whose lengths differ by at most one, as half-open ranges."""
    cuts = [round(index * layers / groups) for index in range(groups + 1)]
    return list(pairwise(cuts))


def _rules(space: GenomeSpace, tensors: Sequence[str]) -> tuple[tuple[Part, Rule], ...]:
    """The rules that some tensor needs, and the part of the model that each speaks about."""
    bounds = layer_bounds(layer_count(tensors), space.layer_groups)
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


def _searched(
    space: GenomeSpace, operator: Operator
) -> list[tuple[Parameter, tuple[float, float]]]:
    found = []
    for parameter in operator.parameters.values():
        if parameter.name in space.ranges:
            found.append((parameter, space.ranges[parameter.name]))
        elif parameter.search is None or parameter.name in space.fixed:
            continue
        # A scale on top of weights would only repeat them: it is searched when asked for.
        elif parameter.per_source or parameter.default is None:
            found.append((parameter, (parameter.search.low, parameter.search.high)))
    return found


def _gene_of_trust(settings: PriorSettings) -> tuple[Gene, ...]:
    low, high = settings.trust
    parameter, source, group, component = OF_TRUST
    gene = Gene(
        parameter=parameter, source=source, group=group, component=component, low=low, high=high
    )
    return (gene,) if low < high else ()


def _check_space(space: GenomeSpace, layers: int) -> None:
    if space.layer_groups > layers:
        raise RecipeError(
            f"genome.layer_groups: {space.layer_groups}, but the model has {layers} layers"
        )
    for index, component in enumerate(space.components):
        if component in space.components[:index]:
            raise RecipeError(f"genome.components: {component.value} is listed twice")


def _check_values(space: GenomeSpace, operator: Operator) -> None:
    for name, (low, high) in space.ranges.items():
        parameter = _parameter(operator, name, "ranges")
        problem = parameter.problem_with(low) or parameter.problem_with(high)
        if parameter.interval is None:
            problem = "is not a number"
        elif high - low < 10**-DECIMALS:
            problem = f"is narrower than the {DECIMALS} decimals that are kept of a value"
        if problem:
            raise RecipeError(f"genome.ranges.{name}: {problem}")
    for name, fixed in space.fixed.items():
        problem = _parameter(operator, name, "fixed").problem_with(fixed)
        if problem:
            raise RecipeError(f"genome.fixed.{name}: {problem}")


def _check_sources(sources: Sequence[Source]) -> None:
    for index, source in enumerate(sources):
        if source.parameters:
            given = ", ".join(source.parameters)
            raise RecipeError(
                f"sources.{index}.parameters: gives {given}, which a search sets by itself; "
                "use genome.ranges or genome.fixed"
            )


def _parameter(operator: Operator, name: str, where: str) -> Parameter:
    if name not in operator.parameters:
        known = ", ".join(operator.parameters)
        raise RecipeError(f"genome.{where}.{name}: {operator.name} has only: {known}")
    return operator.parameters[name]
