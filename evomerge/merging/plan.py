"""Expands a merge recipe into one job per tensor. Pure: it looks at headers, never at weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import MergeError
from evomerge.layout import Place, layer_count, locate
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.operators.parameters import Parameter
    from evomerge.operators.registry import Operator
    from evomerge.recipe.merge import MergeRecipe, Source

Signature = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorJob:
    """How one tensor of the merged model is made.

    Attributes:
        name: The tensor's name in the result.
        shape: Its shape.
        dtype: What it is stored in.
        compute: What the arithmetic is in.
        arguments: A value for each of the operator's parameters, a tuple for those per source.
        base_tensor: Its name in the base model.
        source_tensors: The sources that take part, as index in the recipe and name there.
        depth: Where its layer sits: 0 for the first, 1 for the last, NaN outside the layers.
        layer: What its layer is called in names of random numbers.
        key: Tells what is merged and how; equal for two jobs of a name only if both give the
            same bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    compute: torch.dtype
    arguments: Mapping[str, Any]
    base_tensor: str
    source_tensors: tuple[tuple[int, str], ...]
    depth: float
    layer: str
    key: tuple[object, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePlan:
    """A recipe and its tensor jobs, sorted by name."""

    recipe: MergeRecipe
    operator: Operator
    jobs: tuple[TensorJob, ...]


def make_plan(recipe: MergeRecipe, tensors: Mapping[str, Signature]) -> MergePlan:
    """Expand a recipe into tensor jobs.

    Args:
        recipe: The recipe.
        tensors: Stored dtype and shape of each of the base model's tensors, by name.

    Raises:
        RecipeError: The recipe does not fit its operator.
        MergeError: A parameter has no value for some tensor, or its values do not go together.
    """
    operator = check_operator(recipe)
    layers = layer_count(tensors)
    jobs = (_make_job(recipe, operator, name, tensors[name], layers) for name in sorted(tensors))
    return MergePlan(recipe=recipe, operator=operator, jobs=tuple(jobs))


def _make_job(
    recipe: MergeRecipe, operator: Operator, name: str, signature: Signature, layers: int
) -> TensorJob:
    stored, shape = signature
    place = locate(name)
    arguments = {
        parameter.name: _argument(recipe, parameter, name, place)
        for parameter in operator.parameters.values()
    }
    if operator.check is not None:
        try:
            operator.check(**arguments)
        except MergeError as error:
            raise MergeError(f"tensor {name}: {error}") from None
    keep = recipe.dtype == "base" or not stored.is_floating_point
    dtype = stored if keep else getattr(torch, recipe.dtype)
    identities = tuple(source_identity(source) for source in recipe.sources)
    draws = (recipe.seed, *(s.label for s in recipe.sources)) if operator.stochastic else ()
    return TensorJob(
        name=name,
        shape=shape,
        dtype=dtype,
        compute=torch.float64 if dtype == torch.float64 else torch.float32,
        arguments=arguments,
        base_tensor=name,
        source_tensors=tuple((index, name) for index in range(len(recipe.sources))),
        depth=math.nan if place.layer is None else place.layer / max(1, layers - 1),
        layer=place.component.value if place.layer is None else str(place.layer),
        key=(operator.name, tuple(arguments.items()), dtype, recipe.base, identities, draws),
    )


def _argument(recipe: MergeRecipe, parameter: Parameter, name: str, place: Place) -> object:
    if not parameter.per_source:
        return _value(recipe, parameter, name, place, None)
    return tuple(_value(recipe, parameter, name, place, source) for source in recipe.sources)


def _value(
    recipe: MergeRecipe, parameter: Parameter, name: str, place: Place, source: Source | None
) -> object:
    value = recipe.setting(parameter.name, name, place, source)
    if value is None:
        value = parameter.default
    if value is None:
        of = f" of source {source.label}" if source else ""
        raise MergeError(
            f"parameters.{parameter.name}{of}: no rule gives a value for tensor {name}; "
            "end the list with a rule that has only a value"
        )
    return value


def source_identity(source: Source) -> str:
    """What tells one source of tensors from another: its model reference or its digest."""
    if source.recipe is not None:
        return digest(source.recipe)
    return source.model or source.candidate or ""
