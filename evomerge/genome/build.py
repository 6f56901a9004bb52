"""From a search space to a genome: which genes there are, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.genome.genes import DROPPED, KEPT, NOTHING, OPERATOR, POST, PRESENCE, TRUST, Gene
from evomerge.genome.genome import Genome
from evomerge.genome.layers import rules_of_parts
from evomerge.genome.path import PathGenome, path_genes, writers_of
from evomerge.genome.prior import WEIGHT, plan_prior
from evomerge.genome.searched import Searched, parameters_of, searched_parameters
from evomerge.genome.space_checks import check_space
from evomerge.operators.parameters import OF_BASE, OF_SOURCES
from evomerge.operators.registry import find_operator
from evomerge.recipe.check import check_operator
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evomerge.genome.genes import Part, Reach
    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.merge import Dtype, Source
    from evomerge.recipe.prior import PriorSettings
    from evomerge.recipe.space import GenomeSpace


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
    several, whether each source takes part, and whether an operator follows.

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
    parameters_of(space)  # an unknown operator is what is said first
    tensors = list(tensors)
    rules = rules_of_parts(space, tensors)
    check_space(space, sources)
    given: dict[str, Any] = {
        "base": base,
        "sources": tuple(sources),
        "space": space,
        "rules": rules,
        "dtype": dtype,
        "seed": seed,
    }
    if space.path is not None:
        path = tuple(path_genes(space.path, sources, [part for part, _ in rules]))
        writers = writers_of(tensors) if space.path.scale else ()
        return _checked(PathGenome(**given, genes=path, writers=writers))
    searched = searched_parameters(space)
    genes = (
        *_choices(space, len(sources)),
        *_numbers(space, searched, [part for part, _ in rules], len(sources)),
    )
    prior = None
    if space.prior is not None:
        merging = [find_operator(name) for name in space.operators]
        names, shared = {each.name for each in searched}, space.shared.get(WEIGHT, ())
        prior = plan_prior(space.prior, merging, names, shared, sources, calibration)
        genes = (*genes, *_trust(space.prior))
        # The texts are the prior's; a recipe has its result, in numbers.
        applied = map(find_operator, parameters_of(space))
        if not any(operator.takes & (OF_BASE | OF_SOURCES) for operator in applied):
            calibration = None
    if not genes:
        raise RecipeError("genome: every parameter is fixed, so there is nothing to search")
    return _checked(Genome(**given, genes=genes, calibration=calibration, prior=prior))


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
    if space.post is not None:
        yield Gene(
            parameter=POST,
            source=None,
            group=None,
            component="all",
            choices=(NOTHING, space.post),
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
                    operators=() if operators == space.operators else operators,
                )


def _trust(settings: PriorSettings) -> Iterator[Gene]:
    low, high = settings.trust
    if low < high:
        yield Gene(parameter=TRUST, source=None, group=None, component="all", low=low, high=high)


def _checked(genome: Genome) -> Genome:
    """A genome, if what all its recipes of an operator have in common is right."""
    labels = {source.label for source in genome.sources}
    unknown = genome.calibration.unknown(labels) if genome.calibration else []
    if unknown:
        known = ", ".join(sorted({BASE, *labels}))
        raise RecipeError(f"calibration.texts: {unknown[0]!r} is no source; known: {known}")
    post = genome.space.post
    if post and genome.calibration and not genome.calibration.file(BASE):
        raise RecipeError(f"calibration.texts: has no file for base, which {post} measures")
    for name in genome.space.operators:
        # In the middle nothing is dropped and everything is applied.
        point = [gene.middle(name) if gene.parameter == OPERATOR else 0.5 for gene in genome.genes]
        check_operator(genome.decode(point))
    return genome
