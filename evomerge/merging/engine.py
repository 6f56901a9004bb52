"""Merges one tensor: the only place where operators meet weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evomerge.merging.plan import MergePlan, TensorJob

BLOCK = 1 << 16
"""Entries of an elementwise merge done at a time, so that all operands stay in the cache."""


def merge_tensor(
    plan: MergePlan,
    job: TensorJob,
    read_base: Callable[[str], Tensor],
    read_sources: Sequence[Callable[[str], Tensor]],
    out: Tensor,
) -> None:
    """Merge one tensor into `out`.

    Arithmetic is in float32 (float64 for float64 tensors); the result is rounded to the dtype it
    is stored in and then written, so `out` holds the same values whatever its own dtype is, if
    that one has room for them.

    Args:
        plan: The recipe's plan.
        job: The tensor's job.
        read_base: Gives a tensor of the base model.
        read_sources: The same for each source, in the recipe's order.
        out: Where the result goes, of the tensor's shape, contiguous.

    Raises:
        MergeError: The result is not finite, the sources differ in shape, or the operator cannot
            merge these tensors. The message names the tensor.
    """
    tensors = [read(job.name) for read in read_sources]
    base = read_base(job.name)
    try:
        _check_shapes(plan, job, tensors)
        if not job.dtype.is_floating_point:
            _copy_if_equal(base, tensors, out)
            return
        for where, stack, base_part in _parts(plan, job, base, tensors):
            merged = plan.operator.function(stack, **job.arguments, **_draws(plan, job))
            if plan.operator.space == "delta":
                merged = merged.add_(base_part)
            stored = merged.to(job.dtype)
            _refuse_nonfinite(plan, job, stored, base, tensors)
            out.view(-1)[where].copy_(stored.view(-1))
    except MergeError as error:
        raise MergeError(f"tensor {job.name}: {error}") from None


def _parts(
    plan: MergePlan, job: TensorJob, base: Tensor, tensors: list[Tensor]
) -> Iterable[tuple[slice, Tensor, Tensor]]:
    """The tensor, whole or block by block: where, the stack for the operator, the base."""
    dtype = torch.float64 if job.dtype == torch.float64 else torch.float32
    size = base.numel()
    step = min(BLOCK, size) if plan.operator.elementwise else size
    buffer = torch.empty(len(tensors), step, dtype=dtype)
    base_buffer = torch.empty(step, dtype=dtype)
    flat_base, flats = base.reshape(-1), [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, size, max(1, step)):
        where = slice(start, min(start + step, size))
        stack = buffer[:, : where.stop - where.start]
        part = flat_base[where]
        if plan.operator.space == "delta":
            part = base_buffer[: part.numel()].copy_(part)
        for row, flat in zip(stack, flats, strict=True):
            row.copy_(flat[where])
            if plan.operator.space == "delta":
                row.sub_(part)
        if step == size:
            yield where, stack.view(len(tensors), *job.shape), part.view(job.shape)
        else:
            yield where, stack, part


def _draws(plan: MergePlan, job: TensorJob) -> dict[str, list[torch.Generator]]:
    if not plan.operator.stochastic:
        return {}
    seed = plan.recipe.seed
    return {"rngs": [generator(seed, job.name, source.label) for source in plan.recipe.sources]}


def _check_shapes(plan: MergePlan, job: TensorJob, tensors: list[Tensor]) -> None:
    # Tensors are merged flat, where those of other shapes would pass unnoticed.
    for source, tensor in zip(plan.recipe.sources, tensors, strict=True):
        if tensor.shape != job.shape:
            found, wanted = tuple(tensor.shape), job.shape
            raise MergeError(f"source {source.label} has shape {found}, the base model {wanted}")


def _copy_if_equal(base: Tensor, tensors: list[Tensor], out: Tensor) -> None:
    if not all(base.dtype == tensor.dtype and torch.equal(base, tensor) for tensor in tensors):
        raise MergeError("holds integers that differ between the sources")
    out.copy_(base)


def _refuse_nonfinite(
    plan: MergePlan, job: TensorJob, stored: Tensor, base: Tensor, tensors: list[Tensor]
) -> None:
    # One cheap pass decides nearly always; a sum that overflows is looked at closely.
    if math.isfinite(stored.sum(dtype=torch.float32)) or torch.isfinite(stored).all():
        return
    labels = [f"source {source.label}" for source in plan.recipe.sources]
    inputs = list(zip(labels, tensors, strict=True))
    if plan.operator.space == "delta":
        inputs.insert(0, ("the base model", base))
    causes = [label for label, tensor in inputs if not torch.isfinite(tensor).all()]
    cause = f"the merge overflowed {str(job.dtype).removeprefix('torch.')}"
    if causes:
        cause = f"{' and '.join(causes)} had them already"
    raise MergeError(f"the result has NaN or infinite entries; {cause}")
