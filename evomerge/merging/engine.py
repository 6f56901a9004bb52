"""Merges one tensor: the only place where operators meet weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evomerge.merging.plan import MergePlan, TensorJob

BLOCK = 1 << 17
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
    is stored in and then written, so `out` holds the same values whatever its own dtype is.

    Args:
        plan: The recipe's plan.
        job: The tensor's job.
        read_base: Gives a tensor of the base model.
        read_sources: The same for each source, in the recipe's order.
        out: Where the result goes, of the tensor's shape, contiguous.

    Raises:
        MergeError: The result is not finite, or the operator cannot merge these tensors. The
            message names the tensor.
    """
    tensors = [read(job.name) for read in read_sources]
    base = read_base(job.name)
    if not job.dtype.is_floating_point:
        _copy_if_equal(job, base, tensors, out)
        return
    try:
        for where, stack, base_part in _parts(plan, job, base, tensors):
            merged = plan.operator.function(stack, **job.arguments, **_draws(plan, job))
            if plan.operator.space == "delta":
                merged = base_part + merged
            stored = merged.to(job.dtype)
            _refuse_nonfinite(job, stored, tensors)
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
    flat_base, flats = base.reshape(-1), [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, size, max(1, step)):
        where = slice(start, min(start + step, size))
        stack = buffer[:, : where.stop - where.start]
        part = flat_base[where]
        if plan.operator.space == "delta":
            part = part.to(dtype)
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


def _copy_if_equal(job: TensorJob, base: Tensor, tensors: list[Tensor], out: Tensor) -> None:
    if not all(torch.equal(base, tensor) for tensor in tensors):
        raise MergeError(f"tensor {job.name}: holds integers that differ between the sources")
    out.copy_(base)


def _refuse_nonfinite(job: TensorJob, stored: Tensor, tensors: list[Tensor]) -> None:
    finite = torch.isfinite(stored)
    if finite.all():
        return
    if all(torch.isfinite(tensor).all() for tensor in tensors):
        cause = f"the merge overflowed {str(job.dtype).removeprefix('torch.')}"
    else:
        cause = "a source holds such entries already"
    raise MergeError(f"{int((~finite).sum())} entries are NaN or infinite; {cause}")
