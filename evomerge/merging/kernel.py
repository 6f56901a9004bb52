"""The inner loop of elementwise operators: from stored inputs to the stored result.

Eager torch goes through memory once per arithmetic operation. Where a C++ compiler is at hand, a
loop that has become worth its compilation is fused into one pass; it gives the same bits, which is
checked before it is used.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from evomerge.operators.registry import Operator

BLOCK = 1 << 16
"""Entries that eager torch is given at a time, so that all operands stay in the cache."""

WORTH_COMPILING = 1 << 28
"""Input entries after which a loop is compiled: some seconds of eager work."""

Loop = Callable[[Tensor, Sequence[Tensor], Mapping[str, Any], Tensor], None]
"""Merges base and sources with some arguments into the last tensor; all are flat."""

_LOG = logging.getLogger(__name__)


class Kernel:
    """Merges entries with one operator, fixed flags and dtypes.

    Args:
        operator: An elementwise operator.
        constants: Its flags and choices.
        compute: The dtype of the arithmetic.
        store: The dtype that the result is rounded to.
    """

    def __init__(
        self,
        operator: Operator,
        constants: Mapping[str, Any],
        compute: torch.dtype,
        store: torch.dtype,
    ) -> None:
        self._loop = _make_loop(operator, constants, compute, store)
        self._compiled: Loop | None = None
        self._until_compiled = WORTH_COMPILING if operator.fusible else None

    def __call__(
        self, base: Tensor, sources: Sequence[Tensor], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        """Merge flat tensors.

        Args:
            base: The base model's entries, shape `(n,)`.
            sources: Those of each source.
            arguments: The operator's numbers as tensors, of shape `(M,)` per source and `()` for
                all, and what else it takes: tensors with a value per entry have the shape of the
                flat base in their last dimension.
            out: Where the result goes, shape `(n,)`, any dtype that holds what is stored.
        """
        size = base.numel()
        if self._until_compiled is not None and size > BLOCK:
            self._until_compiled -= size * (1 + len(sources))
            if self._until_compiled <= 0:
                self._until_compiled = None
                self._compile(base, sources, arguments, out)
        if self._compiled is not None and size > BLOCK:
            self._compiled(base, sources, arguments, out)
            return
        for start in range(0, size, BLOCK):
            where = slice(start, min(start + BLOCK, size))
            parts = [source[where] for source in sources]
            self._loop(base[where], parts, _cut(arguments, where), out[where])

    def _compile(
        self, base: Tensor, sources: Sequence[Tensor], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        from torch._dynamo import config, exc

        # A loop for each operator, number of sources and dtype of theirs is no accident here.
        config.recompile_limit = max(256, config.recompile_limit)
        compiled = torch.compile(self._loop, dynamic=True, fullgraph=True)
        try:
            compiled(base, sources, arguments, out)
        except exc.TorchDynamoException as error:
            _LOG.info("merging without compiled loops: %s", str(error).partition("\n")[0])
            return
        where = slice(0, BLOCK)
        eager = torch.empty_like(out[where])
        parts = [source[where] for source in sources]
        self._loop(base[where], parts, _cut(arguments, where), eager)
        if torch.equal(eager, out[where]):
            self._compiled = compiled


@functools.cache
def kernel(
    operator: str,
    constants: tuple[tuple[str, Any], ...],
    compute: torch.dtype,
    store: torch.dtype,
    sources: int,  # noqa: ARG001 (another number is another loop)
) -> Kernel:
    """The kernel of an operator, the same one for the same arguments."""
    return Kernel(find_operator(operator), dict(constants), compute, store)


def _make_loop(
    operator: Operator, constants: Mapping[str, Any], compute: torch.dtype, store: torch.dtype
) -> Loop:
    def loop(
        base: Tensor, sources: Sequence[Tensor], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        rows = [source.to(compute) for source in sources]
        given = dict(arguments)
        if "base" in operator.inputs or operator.space == "delta":
            base = base.to(compute)
        if "base" in operator.inputs:
            given["base"] = base
        if operator.space == "delta":
            rows = [row - base for row in rows]
        merged = operator.function(rows, **given, **constants)
        if operator.space == "delta":
            merged = merged + base
        out.copy_(merged.to(store))

    return loop


def _cut(arguments: Mapping[str, Any], where: slice) -> dict[str, Any]:
    """The arguments for a block of the tensor."""
    cut = dict(arguments)
    if "draws" in cut:
        cut["draws"] = [own._replace(start=own.start + where.start) for own in cut["draws"]]
    if "fisher" in cut:
        cut["fisher"] = cut["fisher"][..., where]
    return cut
