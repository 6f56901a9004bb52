"""Which parameters a search varies, and which operators share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evomerge.operators.parameters import Search
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.operators.parameters import Parameter
    from evomerge.recipe.space import GenomeSpace


class Searched(NamedTuple):
    """A parameter that is searched; operators that agree on all of it share its genes."""

    name: str
    per_source: bool
    range: Search


def parameters_of(space: GenomeSpace) -> dict[str, Mapping[str, Parameter]]:
    """The parameters of each operator that a space speaks about, by the operator's name.

    What is done to a merge has those that are no parameters of the merge.

    Raises:
        RecipeError: There is no operator of that name.
    """
    found = {name: find_operator(name).parameters for name in space.operators}
    if space.post is None:
        return found
    taken = {name for parameters in found.values() for name in parameters}
    own = find_operator(space.post).parameters
    alone = {n: each for n, each in own.items() if n not in taken and not each.per_source}
    return found | {space.post: alone}


def searched_parameters(space: GenomeSpace) -> dict[Searched, tuple[str, ...]]:
    """The parameters that are searched, and the operators that each is of."""
    found: dict[Searched, tuple[str, ...]] = {}
    bounds = space.bounds
    for operator, parameters in parameters_of(space).items():
        for parameter in parameters.values():
            given = bounds.get(parameter.name)
            if given:
                key = Searched(
                    parameter.name,
                    parameter.per_source,
                    Search(given.low, given.high, log=given.log),
                )
            elif parameter.search is None or parameter.name in space.fixed:
                continue
            # A scale on top of weights would only repeat them: it is searched when asked for.
            elif parameter.per_source or parameter.default is None:
                key = Searched(parameter.name, parameter.per_source, parameter.search)
            else:
                continue
            found[key] = (*found.get(key, ()), operator)
    return found
