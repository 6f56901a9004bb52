"""Merges one tensor as mergekit 0.1.5 does on a CPU, random numbers included.

mergekit seeds one generator per merge and draws from it tensor by tensor: in the order of the
names that tensors are read under, and within a tensor in the order of the sources. Where a stack
uses one layer twice, the order of the two is mergekit's own secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from evomerge.merging.mergekit_compat import arcs, statistics
from evomerge.merging.mergekit_compat.statistics import SAMPLE
from evomerge.merging.mergekit_compat.sums import SPARSIFIERS, sum_task_vectors
from evomerge.recipe.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from evomerge.merging.operands import Operands
    from evomerge.merging.plan import TensorJob

DRAWS_MASKS = {"dare_linear", "dare_ties", "della", "della_linear"}

FROM_BASE = {"nuslerp", "nuslerp_lines", "multislerp", "model_stock", "model_stock_rows"} | {
    *("sce", "ram", "ramplus_tl")
}
"""Operators that take the base's tensor, sums of task vectors apart."""

METHODS: dict[str, Callable[..., Tensor]] = {
    "linear": arcs.linear,
    "passthrough": arcs.passthrough,
    "slerp": arcs.slerp,
    "nuslerp": arcs.nuslerp,
    "nuslerp_lines": arcs.nuslerp,
    "multislerp": arcs.multislerp,
    "karcher": arcs.karcher,
    "model_stock": statistics.model_stock,
    "model_stock_rows": statistics.model_stock_rows,
    "nearswap": statistics.nearswap,
    "arcee_fusion": statistics.arcee_fusion,
    "sce": statistics.sce,
    "ram": statistics.ram,
    "ramplus_tl": statistics.ramplus_tl,
}
"""All operators but the sums of task vectors."""


def merge(
    name: str,
    base: Tensor,
    tensors: Sequence[Tensor],
    arguments: Mapping[str, Any],
    rng: torch.Generator,
) -> Tensor:
    """Merge one parameter with mergekit's arithmetic.

    Args:
        name: Our operator.
        base: The base model's tensor, shape `(*S,)`.
        tensors: Those of the sources, M of shape `(*S,)`, all in the dtype of the arithmetic.
        arguments: A value for each of the operator's parameters.
        rng: Draws masks and samples.

    Returns:
        Shape `(*S,)`, in the dtype that mergekit's result has.
    """
    if name in SPARSIFIERS:
        return sum_task_vectors(name, base, tensors, arguments, rng)
    given = dict(arguments)
    if name in FROM_BASE:
        given["base"] = base
    if name == "arcee_fusion":
        given["rng"] = rng
    return METHODS[name](tensors, **given)


def merge_as_mergekit(operands: Operands, job: TensorJob, out: Tensor) -> None:
    """Merge one tensor into `out`.

    Args:
        operands: The recipe's plan and where its tensors come from.
        job: The tensor's job; its arithmetic is in the dtype that mergekit's is in.
        out: Where the result goes, of the tensor's shape.
    """
    base, tensors = operands.stored(job)
    rng = _Stream(operands).before(job) if _draws(operands, job) else torch.Generator()
    name = operands.plan.operator.name
    merged = merge(
        name, base.to(job.compute), [t.to(job.compute) for t in tensors], job.arguments, rng
    )
    out.copy_(merged.to(job.dtype))
    if _draws(operands, job):
        _Stream(operands).remember(job, rng)


def _draws(operands: Operands, job: TensorJob) -> bool:
    name = operands.plan.operator.name
    if name == "arcee_fusion":
        return torch.Size(job.shape).numel() > SAMPLE
    return name in DRAWS_MASKS


class _Stream:
    """The generator's state before each tensor; kept, so that any order of merging will do."""

    def __init__(self, operands: Operands) -> None:
        self._operands = operands
        self._states = operands.measured
        self._recipe = digest(operands.plan.recipe)
        drawing = (job for job in operands.plan.jobs if _draws(operands, job))
        self._jobs = sorted(
            (job for job in drawing if job.dtype.is_floating_point),
            key=lambda job: (max(_read_names(job)), job.name),
        )

    def before(self, job: TensorJob) -> torch.Generator:
        """A generator as it is before a tensor."""
        place = self._jobs.index(job)
        rng = torch.Generator().manual_seed(self._operands.plan.recipe.seed)
        known = place
        while known and self._key(self._jobs[known]) not in self._states:
            known -= 1
        if known:
            rng.set_state(self._states[self._key(self._jobs[known])])
        for earlier in self._jobs[known:place]:
            self._skip(earlier, rng)
            self.remember(earlier, rng)
        return rng

    def remember(self, job: TensorJob, rng: torch.Generator) -> None:
        """Keep the generator's state after a tensor."""
        after = self._jobs.index(job) + 1
        if after < len(self._jobs):
            self._states[self._key(self._jobs[after])] = rng.get_state()

    def _key(self, job: TensorJob) -> tuple[str, ...]:
        return ("random numbers as mergekit's", self._recipe, job.name)

    def _skip(self, job: TensorJob, rng: torch.Generator) -> None:
        if self._operands.plan.operator.name == "arcee_fusion":
            torch.randint(torch.Size(job.shape).numel(), (SAMPLE,), generator=rng)
            return
        dtype = torch.float32 if job.compute == torch.float16 else job.compute
        for density in job.arguments["density"]:
            if density < 1:
                torch.bernoulli(torch.full(job.shape, 0.5, dtype=dtype), generator=rng)


def _read_names(job: TensorJob) -> list[str]:
    names = [name for _, name in job.source_tensors]
    return names if job.base_tensor is None else [*names, job.base_tensor]
