"""From a search space to a genome: which genes there are, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import RecipeError
from evomerge.genome.genes import DROPPED, KEPT, OPERATOR, PRESENCE, TRUST, Gene
from evomerge.genome.genome import Genome
from evomerge.genome.layers import rules_of_parts
from evomerge.genome.prior import WEIGHT, plan_prior
from evomerge.genome.space_checks import check_shared, check_space
from evomerge.operators.parameters import OF_BASE, OF_SOURCES, Search
from evomerge.operators.registry import Operator, find_operator
from evomerge.recipe.check import check_operator
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evomerge.genome.genes import Part, Reach
    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.merge import Dtype, Source
    from evomerge.recipe.prior import PriorSettings
    from evomerge.recipe.search import GenomeSpace


class Searched(NamedTuple):
    """A parameter that is searched; operators that agree on all of it share its genes."""

    name: str
    per_source: bool
    range: Search


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
    recipe, gets one gene per layer group and component, and per source where it differs by source,
    unless genes are `shared`. A component gets none in a group where the model has no such tensor:
    a head that is tied to the embedding has no gene. Choices come first: the operator if there are
    several, and whether each source takes part.

    Args:
        base: The base model.
        sources: The models to merge.
        space: Which merges the search can reach.
        tensors: Names of the tensors that are merged.
        dtype: What recipes store.
        seed: Seeds stochastic operators.
        calibration: The recipes' texts, for operators that measure models.

    Raises:
        RecipeError: The space does not fit the operators, the sources or the layers, or there is
            nothing to search.
    """
    operators = [find_operator(name) for name in space.operators]
    rules = rules_of_parts(space, list(tensors))
    check_space(space, operators, sources)
    searched = _searched(space, operators)
    check_shared(space, {each.name for each in searched})
    genes = (
        *_choices(space, len(sources)),
        *_numbers(space, searched, [part for part, _ in rules], len(sources)),
    )
    prior = None
    if space.prior is not None:
        names = {each.name for each in searched}
        prior = plan_prior(
            space.prior,
            operators,
            names,
            space.shared.get(WEIGHT, ()),
            sources,
            calibration,
        )
        genes = (*genes, *_trust(space.prior))
        # The texts are the prior's; a recipe has its result, in numbers.
        if not any(operator.takes & (OF_BASE | OF_SOURCES) for operator in operators):
            calibration = None
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
    _check_recipes(genome)
    return genome


def _searched(
    space: GenomeSpace, operators: Sequence[Operator]
) -> Mapping[Searched, tuple[str, ...]]:
    """The parameters that are searched, and the operators that each is of."""
    found: dict[Searched, tuple[str, ...]] = {}
    for operator in operators:
        for parameter in operator.parameters.values():
            given = space.bounds.get(parameter.name)
            if given:
                bounds = Search(given.low, given.high, log=given.log)
            elif parameter.search is None or parameter.name in space.fixed:
                continue
            # A scale on top of weights would only repeat them: it is searched when asked for.
            elif parameter.per_source or parameter.default is None:
                bounds = parameter.search
            else:
                continue
            key = Searched(parameter.name, parameter.per_source, bounds)
            found[key] = (*found.get(key, ()), operator.name)
    return found


def _choices(space: GenomeSpace, sources: int) -> Iterator[Gene]:
    if len(space.operators) > 1:
        yield Gene(
            parameter=OPERATOR, source=None, group=None, component="all", choices=space.operators
        )
    for source in range(sources if space.drop_sources else 0):
        yield Gene(
            parameter=PRESENCE,
            source=source,
            group=None,
            component="all",
            choices=(DROPPED, KEPT),
        )


def _numbers(
    space: GenomeSpace,
    searched: Mapping[Searched, tuple[str, ...]],
    parts: Sequence[Part],
    sources: int,
) -> Iterator[Gene]:
    for parameter, operators in searched.items():
        axes = space.shared.get(parameter.name, ())
        by_source = parameter.per_source and "sources" not in axes
        # Several parts have one gene if an axis that tells them apart is shared.
        driven: dict[tuple[int | None, Reach], None] = dict.fromkeys(
            (
                None if "layers" in axes else group,
                "all" if "components" in axes else component,
            )
            for group in range(1 + max(group for group, _ in parts))
            for component in (*space.components, None)
            if (group, component) in parts
        )
        for source in range(sources) if by_source else (None,):
            for group, component in driven:
                yield Gene(
                    parameter=parameter.name,
                    source=source,
                    group=group,
                    component=component,
                    low=parameter.range.low,
                    high=parameter.range.high,
                    log=parameter.range.log,
                    operators=operators if len(operators) < len(space.operators) else (),
                )


def _trust(settings: PriorSettings) -> Iterator[Gene]:
    low, high = settings.trust
    if low < high:
        yield Gene(parameter=TRUST, source=None, group=None, component="all", low=low, high=high)


def _check_recipes(genome: Genome) -> None:
    """Check what all recipes of an operator have in common, such as the number of sources."""
    labels = {source.label for source in genome.sources}
    unknown = genome.calibration.unknown(labels) if genome.calibration else []
    if unknown:
        known = ", ".join(sorted({BASE, *labels}))
        raise RecipeError(f"calibration.texts: {unknown[0]!r} is no source; known: {known}")
    middle = [0.5] * len(genome.genes)
    for name in genome.space.operators:
        point = [
            gene.middle(name) if gene.parameter == OPERATOR else coordinate
            for gene, coordinate in zip(genome.genes, middle, strict=True)
        ]
        check_operator(genome.decode(point))
