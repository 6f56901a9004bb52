"""Expands a merge recipe into one job per tensor. Pure: it looks at headers, never at weights."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import MergeError
from evomerge.recipe.check import check_own_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.origins import trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.operators.registry import Operator
    from evomerge.recipe.merge import MergeRecipe, Source
    from evomerge.recipe.origins import Origin

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
        base_tensor: Its name in the base model; None if that has no such tensor.
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
    base_tensor: str | None
    source_tensors: tuple[tuple[int, str], ...]
    depth: float
    layer: str
    key: tuple[object, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePlan:
    """A recipe and its tensor jobs, sorted by name.

    Attributes:
        recipe: The recipe.
        operator: Its operator.
        jobs: The tensor jobs.
        texts: Fingerprint of the texts that models are measured on; None if they are not.
    """

    recipe: MergeRecipe
    operator: Operator
    jobs: tuple[TensorJob, ...]
    texts: str | None = None


def make_plan(
    recipe: MergeRecipe,
    tensors: Mapping[str, Signature],
    sources: Sequence[Mapping[str, Signature]] = (),
    texts: str | None = None,
) -> MergePlan:
    """Expand a recipe into tensor jobs.

    Args:
        recipe: The recipe.
        tensors: Stored dtype and shape of each of the base model's tensors, by name.
        sources: The same for each source; that of the base if absent. They matter to recipes
            that stack layers, and to those that do as mergekit does.
        texts: Fingerprint of the texts that models are measured on; None if they are not.

    Raises:
        RecipeError: The recipe does not fit its operator.
        MergeError: A parameter has no value for some tensor, its values do not go together, or
            layers are asked for that a model does not have.
    """
    operator = check_own_operator(recipe)
    planner = _Planner(
        recipe=recipe,
        operator=operator,
        base=tensors,
        sources=sources or [tensors] * len(recipe.sources),
        identity=(
            base_identity(recipe),
            # There, random numbers depend on all tensors before.
            digest(recipe) if recipe.mergekit_compat else None,
            texts,
        ),
        members=[source_identity(source) for source in recipe.sources],
    )
    origins = trace(recipe, tensors, sources)
    layers = 1 + max((o.place.layer for o in origins if o.place.layer is not None), default=-1)
    jobs = tuple(planner.job(origin, layers) for origin in origins)
    if operator.measure is not None and operator.measure.span == "model":
        planner.refuse_different_members(jobs)
    return MergePlan(recipe=recipe, operator=operator, jobs=jobs, texts=texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planner:
    recipe: MergeRecipe
    operator: Operator
    base: Mapping[str, Signature]
    sources: Sequence[Mapping[str, Signature]]
    identity: tuple[object, ...]
    members: Sequence[str]

    def job(self, origin: Origin, layers: int) -> TensorJob:
        stored, shape = self._signature(origin)
        members = [(self.recipe.sources[index], name) for index, name in origin.sources]
        arguments = {
            parameter.name: self._argument(parameter, origin, members)
            for parameter in self.operator.parameters.values()
        }
        if self.operator.check is not None:
            try:
                self.operator.check(**arguments)
            except MergeError as error:
                raise MergeError(f"tensor {origin.name}: {error}") from None
        dtype, compute = self._dtypes(origin, stored)
        layer = origin.place.layer
        return TensorJob(
            name=origin.name,
            shape=shape,
            dtype=dtype,
            compute=compute,
            arguments=arguments,
            base_tensor=origin.base,
            source_tensors=origin.sources,
            depth=math.nan if layer is None else layer / max(1, layers - 1),
            layer=origin.place.component.value if layer is None else str(layer),
            key=(
                self.operator.name,
                tuple(arguments.items()),
                dtype,
                self.identity,
                origin.base,
                tuple((self.members[index], name) for index, name in origin.sources),
                (self.recipe.seed, *(source.label for source, _ in members))
                if self.operator.stochastic
                else (),
            ),
        )

    def _signature(self, origin: Origin) -> Signature:
        if origin.base is not None:
            return self.base[origin.base]
        if self.operator.space == "delta" or "base" in self.operator.inputs:
            raise MergeError(
                f"tensor {origin.name}: {self.operator.name} needs the base model, which has no "
                "such layer; give the base's layers in the stack"
            )
        index, name = origin.sources[0]
        return self.sources[index][name]

    def _dtypes(self, origin: Origin, stored: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        """What a tensor is stored in and what the arithmetic is in."""
        compat, chosen = self.recipe.mergekit_compat, self.recipe.dtype
        if not stored.is_floating_point:
            return stored, torch.float32
        if compat is None:
            dtype = stored if chosen == "base" else getattr(torch, chosen)
            return dtype, torch.float64 if dtype == torch.float64 else torch.float32
        if compat.dtype is not None:
            compute: torch.dtype = getattr(torch, compat.dtype)
        else:
            read = [self.sources[index][name][0] for index, name in origin.sources]
            if origin.base is not None and self._measures_from_base():
                read.append(self.base[origin.base][0])
            try:
                compute = functools.reduce(torch.promote_types, read)
            except RuntimeError:
                found = " and ".join(sorted({str(each).removeprefix("torch.") for each in read}))
                raise MergeError(
                    f"tensor {origin.name}: mergekit cannot merge {found}; give a dtype"
                ) from None
        if chosen != "base":
            return getattr(torch, chosen), compute
        # mergekit stores what its arithmetic gives.
        wide = self.operator.name in ("arcee_fusion", "ramplus_tl")
        return torch.promote_types(compute, torch.float32) if wide else compute, compute

    def _measures_from_base(self) -> bool:
        around = self.recipe.parameters.get("around", "base") == "base"
        return self.operator.space == "delta" or ("base" in self.operator.inputs and around)

    def refuse_different_members(self, jobs: Sequence[TensorJob]) -> None:
        if len({tuple(index for index, _ in job.source_tensors) for job in jobs}) > 1:
            raise MergeError(
                f"stack: {self.operator.name} looks at the whole model, so every slab must have "
                "the same sources"
            )

    def _argument(
        self, parameter: Parameter, origin: Origin, members: Sequence[tuple[Source, str]]
    ) -> object:
        if not parameter.per_source:
            return self._value(parameter, origin, origin.name, None)
        return tuple(self._value(parameter, origin, name, source) for source, name in members)

    def _value(
        self, parameter: Parameter, origin: Origin, name: str, source: Source | None
    ) -> object:
        value = self.recipe.setting(parameter.name, name, origin.place, source)
        if value is None:
            value = parameter.default
        if value is None:
            of = f" of source {source.label}" if source else ""
            raise MergeError(
                f"parameters.{parameter.name}{of}: no rule gives a value for tensor "
                f"{origin.name}; end the list with a rule that has only a value"
            )
        return value


def base_identity(recipe: MergeRecipe) -> str:
    """What tells one base from another: its model reference, or the digest of its recipe."""
    return recipe.base if recipe.base_recipe is None else digest(recipe.base_recipe)


def source_identity(source: Source) -> str:
    """What tells one source from another: its model reference or digest, and what is measured."""
    itself = digest(source.recipe) if source.recipe else source.model or source.candidate or ""
    return itself if source.measured_as is None else f"{itself} as {source.measured_as}"
