"""Checks a search space against its operators and sources, before genes are laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.genome.genes import DECIMALS, DIGITS
from evomerge.genome.searched import parameters_of, searched_parameters
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.recipe.merge import Source
    from evomerge.recipe.ranges import Bounds
    from evomerge.recipe.space import GenomeSpace


def check_space(space: GenomeSpace, sources: Sequence[Source]) -> None:
    """Check what a search space says of components, parameters and sources.

    Raises:
        RecipeError: Something does not fit the operators or the sources.
    """
    for index, component in enumerate(space.components):
        if component in space.components[:index]:
            raise RecipeError(f"genome.components: {component.value} is listed twice")
    _check_parameters(space)
    _check_shared(space)
    _check_sources(space, sources)


def _check_parameters(space: GenomeSpace) -> None:
    for name, bounds in space.bounds.items():
        for said, parameter in _having(space, name, "ranges"):
            problem = _problem_with_range(parameter, bounds)
            if problem:
                raise RecipeError(f"genome.ranges.{name}: {said}{problem}")
    for name, fixed in space.fixed.items():
        for said, parameter in _having(space, name, "fixed"):
            problem = parameter.problem_with(fixed)
            if problem:
                raise RecipeError(f"genome.fixed.{name}: {said}{problem}")


def _check_shared(space: GenomeSpace) -> None:
    searched = {each.name for each in searched_parameters(space)}
    for name in space.shared:
        if name not in searched:
            known = ", ".join(sorted(searched)) or "none"
            raise RecipeError(
                f"genome.shared.{name}: is not searched, so it has no genes to share; "
                f"searched: {known}"
            )


def _having(space: GenomeSpace, name: str, where: str) -> Iterator[tuple[str, Parameter]]:
    """A parameter of each operator that has it, and how a message begins about it."""
    operators = parameters_of(space)
    having = {operator: known for operator, known in operators.items() if name in known}
    if not having:
        known = "; ".join(f"{each} has only: {', '.join(of)}" for each, of in operators.items())
        raise RecipeError(f"genome.{where}.{name}: {known}")
    for operator, parameters in having.items():
        yield f"{operator}: " if len(operators) > 1 else "", parameters[name]


def _problem_with_range(parameter: Parameter, bounds: Bounds) -> str | None:
    if parameter.interval is None:
        return "is not a number"
    problem = parameter.problem_with(bounds.low) or parameter.problem_with(bounds.high)
    if problem:
        return problem
    if bounds.log and bounds.high / bounds.low - 1 < 10 ** (1 - DIGITS):
        return f"is narrower than the {DIGITS} digits that are kept of a value"
    if not bounds.log and bounds.high - bounds.low < 10**-DECIMALS:
        return f"is narrower than the {DECIMALS} decimals that are kept of a value"
    return None


def _check_sources(space: GenomeSpace, sources: Sequence[Source]) -> None:
    for index, source in enumerate(sources):
        if source.parameters:
            given = ", ".join(source.parameters)
            raise RecipeError(
                f"sources.{index}.parameters: gives {given}, which a search sets by itself; "
                "use genome.ranges or genome.fixed"
            )
    fewest = min(find_operator(name).sources[0] for name in space.operators)
    if space.drop_sources and fewest >= len(sources):
        names = " and ".join(space.operators)
        raise RecipeError(
            f"genome.drop_sources: there are {len(sources)} sources, none of which {names} can do "
            "without"
        )
