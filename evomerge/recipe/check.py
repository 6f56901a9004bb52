"""Checks a recipe's operator and its parameters against the operator's signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError, nearest
from evomerge.operators.parameters import OF_BASE, OF_SOURCES
from evomerge.operators.registry import Operator, find_operator
from evomerge.recipe.mergekit.names import NORM, OPERATORS
from evomerge.recipe.origins import slab_members
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.recipe.merge import MergeRecipe, Setting


def check_operator(recipe: MergeRecipe) -> Operator:
    """Find a recipe's operator and check every parameter it gives.

    Raises:
        RecipeError: The operator is unknown, does not take this number of sources, or a
            parameter is unknown, out of range or given per source where it is one per tensor.
            Every finding is named, one per line of the message.
    """
    return _refuse(list(_all_findings(recipe, "", set())), recipe)


def check_own_operator(recipe: MergeRecipe) -> Operator:
    """Do the same for one whose inner recipes are checked by themselves."""
    return _refuse(list(_own_findings(recipe, "")), recipe)


def _refuse(findings: list[str], recipe: MergeRecipe) -> Operator:
    if findings:
        raise RecipeError("\n".join(findings))
    return find_operator(recipe.operator)


def _all_findings(recipe: MergeRecipe, path: str, checked: set[str]) -> Iterator[str]:
    if recipe.digest in checked:
        return
    checked.add(recipe.digest)
    yield from _own_findings(recipe, path)
    if recipe.base_recipe is not None:
        yield from _all_findings(recipe.base_recipe, f"{path}base_recipe.", checked)
    for index, source in enumerate(recipe.sources):
        if source.recipe is not None:
            yield from _all_findings(source.recipe, f"{path}sources.{index}.recipe.", checked)


def _own_findings(recipe: MergeRecipe, path: str) -> Iterator[str]:
    try:
        operator = find_operator(recipe.operator)
    except RecipeError as error:
        yield f"{path}operator: {error}"
    else:
        yield from (path + finding for finding in _findings(recipe, operator))


def _findings(recipe: MergeRecipe, operator: Operator) -> Iterator[str]:
    least, most = operator.sources
    for where, count in _source_counts(recipe):
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if least == most else f"{least} to {most or 'any number of'}"
            yield f"{where}: {operator.name} takes {wanted} sources, found {count}"
    for name, setting in recipe.parameters.items():
        yield from _problems(operator, name, setting, f"parameters.{name}")
    for index, source in enumerate(recipe.sources):
        for name, setting in source.parameters.items():
            where = f"sources.{index}.parameters.{name}"
            yield from _problems(operator, name, setting, where, of_source=True)
    yield from _missing(recipe, operator)
    if recipe.mergekit_compat is not None:
        yield from _unlike_mergekit(recipe, operator)
    yield from _unmeasurable(recipe, operator)


def _source_counts(recipe: MergeRecipe) -> Iterator[tuple[str, int]]:
    """How many sources are merged, wherever that may differ."""
    if recipe.stack is None:
        yield "operator", len(recipe.sources)
    for index, slab in enumerate(recipe.stack or ()):
        yield f"stack.{index}", len(slab_members(recipe, slab))


def _problems(
    operator: Operator, name: str, setting: Setting, where: str, *, of_source: bool = False
) -> Iterator[str]:
    parameter = operator.parameters.get(name)
    if parameter is None:
        near = nearest(name, operator.parameters)
        hint = f"did you mean {near!r}? " if near else ""
        known = ", ".join(operator.parameters)
        yield f"{where}: {operator.name} has no such parameter; {hint}it has: {known}"
        return
    if of_source and not parameter.per_source:
        yield f"{where}: is one value for all sources; move it to the recipe's parameters"
    values = (rule.value for rule in setting) if isinstance(setting, tuple) else (setting,)
    for value in values:
        problem = parameter.problem_with(value)
        if problem:
            yield f"{where}: {problem}"


def _missing(recipe: MergeRecipe, operator: Operator) -> Iterator[str]:
    for name, parameter in operator.parameters.items():
        if parameter.default is not None or name in recipe.parameters:
            continue
        lacking = [source.label for source in recipe.sources if name not in source.parameters]
        if lacking and parameter.per_source:
            yield f"parameters.{name}: is missing for {', '.join(lacking)}"
        elif not parameter.per_source:
            yield f"parameters.{name}: is missing"


def _unlike_mergekit(recipe: MergeRecipe, operator: Operator) -> Iterator[str]:
    """What mergekit's bytes are asked for and mergekit cannot do."""
    if operator.name not in OPERATORS:
        yield f"mergekit_compat: mergekit has no operator {operator.name}"
    rescale = operator.parameters.get("rescale")
    if rescale is None:
        return
    setting = recipe.parameters.get("rescale", rescale.default)
    values = [rule.value for rule in setting] if isinstance(setting, tuple) else [setting]
    for value in values:
        if value not in NORM.values():
            yield f"mergekit_compat: rescale: mergekit has only norm and none, found {value!r}"


def _unmeasurable(recipe: MergeRecipe, operator: Operator) -> Iterator[str]:
    """What an operator must know of models that cannot be measured."""
    measured = sorted(operator.takes & (OF_BASE | OF_SOURCES))
    if not measured:
        return
    if recipe.calibration is None:
        yield (
            f"calibration: is missing; {operator.name} needs the {' and '.join(measured)} of "
            "models on texts; write calibration: {texts: FILE} at the top of the recipe"
        )
        return
    if operator.takes & OF_BASE:
        if recipe.base_recipe is not None:
            yield f"base_recipe: {operator.name} measures the base, which must be a model"
        if recipe.calibration.file(BASE) is None:
            yield "calibration.texts: has no file for base, which is measured"
    for index, source in enumerate(recipe.sources if operator.takes & OF_SOURCES else ()):
        if source.model is None and source.measured_as is None:
            yield (
                f"sources.{index}: {operator.name} measures its sources, which must be models; "
                "export this one first, or say which model it is measured_as"
            )
        if operator.takes & OF_SOURCES - OF_BASE and not recipe.calibration.file(source.label):
            yield f"calibration.texts: has no file for {source.label}, which is measured"
