"""Merges one tensor: the only place where operators meet weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.merging.kernel import kernel
from evomerge.merging.mergekit_compat.merge import merge_as_mergekit
from evomerge.operators.apply import apply
from evomerge.operators.chunks import CHUNK
from evomerge.operators.parameters import PER_ENTRY

if TYPE_CHECKING:
    from evomerge.merging.operands import Operands
    from evomerge.merging.plan import TensorJob


def merge_tensor(operands: Operands, job: TensorJob, out: Tensor) -> None:
    """Merge one tensor into `out`.

    Arithmetic is in float32 (float64 for float64 tensors); the result is rounded to the dtype it
    is stored in and then written, so `out` holds the same values whatever its own dtype is, if
    that one has room for them.

    Args:
        operands: The recipe's plan and where its tensors come from.
        job: The tensor's job.
        out: Where the result goes, of the tensor's shape, contiguous.

    Raises:
        MergeError: The result is not finite, the sources differ in shape, or the operator cannot
            merge these tensors. The message names the tensor.
    """
    try:
        if not job.dtype.is_floating_point:
            _copy_if_equal(*operands.stored(job), out)
            return
        if operands.plan.recipe.mergekit_compat is not None:
            merge_as_mergekit(operands, job, out)
        elif operands.plan.operator.elementwise:
            _merge_entries(operands, job, out)
        else:
            _merge_whole(operands, job, out)
        _refuse_nonfinite(operands, job, out)
    except MergeError as error:
        raise MergeError(f"tensor {job.name}: {error}") from None


def _merge_entries(operands: Operands, job: TensorJob, out: Tensor) -> None:
    operator = operands.plan.operator
    base, tensors = operands.stored(job)
    entries = {
        "base": [base.reshape(-1)],
        "sources": [tensor.reshape(-1) for tensor in tensors],
    }
    arguments = {k: v for k, v in operands.inputs(job).items() if k in operator.inputs}
    for name in arguments.keys() & PER_ENTRY:
        entries[name] = [row.reshape(-1) for row in arguments.pop(name)]
    constants = []
    for name, parameter in operator.parameters.items():
        if parameter.interval is None:
            constants.append((name, job.arguments[name]))
        else:
            arguments[name] = torch.tensor(job.arguments[name], dtype=job.compute)
    merge = kernel(operator.name, tuple(constants), job.compute, job.dtype, len(tensors))
    merge(entries, arguments, out.view(-1))


def _merge_whole(operands: Operands, job: TensorJob, out: Tensor) -> None:
    operator = operands.plan.operator
    inputs = operands.inputs(job)
    base, stack = operands.stack(job)
    merged = apply(operator, stack, job.arguments, {**inputs, "base": base})
    if operator.space == "delta":
        merged = merged + base
    out.copy_(merged.to(job.dtype))


def _copy_if_equal(base: Tensor, tensors: list[Tensor], out: Tensor) -> None:
    if not all(base.dtype == tensor.dtype and torch.equal(base, tensor) for tensor in tensors):
        raise MergeError("holds integers that differ between the sources")
    out.copy_(base)


def _refuse_nonfinite(operands: Operands, job: TensorJob, out: Tensor) -> None:
    # One cheap pass decides nearly always; a sum that overflows is looked at closely. It goes
    # piece by piece, since torch makes a float32 copy of what it adds up.
    pieces = torch.split(out.view(-1), CHUNK)
    likely = all(math.isfinite(piece.sum(dtype=torch.float32)) for piece in pieces)
    if likely or torch.isfinite(out).all():
        return
    base, tensors = operands.stored(job)
    labels = [f"source {operands.plan.recipe.sources[i].label}" for i, _ in job.source_tensors]
    inputs = list(zip(labels, tensors, strict=True))
    if operands.plan.operator.space == "delta":
        inputs.insert(0, ("the base model", base))
    causes = [label for label, tensor in inputs if not torch.isfinite(tensor).all()]
    cause = f"the merge overflowed {str(job.dtype).removeprefix('torch.')}"
    if causes:
        cause = f"{' and '.join(causes)} had them already"
    raise MergeError(f"the result has NaN or infinite entries; {cause}")
