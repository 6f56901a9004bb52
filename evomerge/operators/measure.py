"""First passes: what an operator must know of a whole tensor or model before it can merge.

A threshold, a norm or an angle is measured once and kept, for it depends on few parameters of a
recipe; the merge itself then needs each entry only once.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evomerge.operators.chunks import Chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

Span = Literal["source", "chunks", "streams", "tensor", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A first pass.

    Attributes:
        function: What it calls. Its keyword arguments are parameters of the operator that it
            depends on, and perhaps `draws` or `base`, which mean what they mean to an operator.
        span: What the function sees: `source` one source's tensor of shape `(*S,)`, with that
            source's parameters; `chunks` the same as `Chunks`, which need less memory;
            `streams` the `Chunks` of all sources; `tensor` the stack of shape `(M, *S)`; `model`
            an iterable, which may be gone through several times, of the stacks of all floating
            point tensors.
        reads: Names of its keyword arguments.
    """

    function: Callable[..., Tensor]
    span: Span
    reads: tuple[str, ...]

    @property
    def of_source(self) -> bool:
        """Whether each source is measured by itself."""
        return self.span in ("source", "chunks")


def measure(span: Span) -> Callable[[Callable[..., Tensor]], Measure]:
    """Make a function the first pass of operators: `@operator(..., measure=function)`.

    The function returns a small tensor of any shape. The operator is given it as `measured`; from
    a measure of single sources it is stacked, one row per source.
    """

    def wrap(function: Callable[..., Tensor]) -> Measure:
        arguments = inspect.signature(function).parameters.values()
        reads = tuple(each.name for each in arguments if each.kind is each.KEYWORD_ONLY)
        return Measure(function=function, span=span, reads=reads)

    return wrap


def take_measure(
    of: Measure,
    stack: Tensor,
    arguments: Mapping[str, Any],
    stacks: Iterable[Tensor] | None = None,
) -> Tensor:
    """Measure one tensor, or a model.

    Args:
        of: The measure.
        stack: The sources of one tensor, shape `(M, *S)`.
        arguments: The operator's arguments; what the measure does not read is ignored.
        stacks: The stacks of the whole model, for measures of models; `stack` alone if absent.
    """
    import torch

    read = {name: arguments[name] for name in of.reads}
    if of.span == "tensor":
        return of.function(stack, **read)
    if of.span == "streams":
        return of.function([Chunks.of(row) for row in stack], **read)
    if of.span == "model":
        return of.function([stack] if stacks is None else stacks, **read)
    sources = [Chunks.of(row) if of.span == "chunks" else row for row in stack]
    return torch.stack([measure_source(of, one, row, read) for row, one in enumerate(sources)])


def measure_source(
    of: Measure, source: Tensor | Chunks, row: int, arguments: Mapping[str, Any]
) -> Tensor:
    """Measure one source.

    Args:
        of: A measure of single sources.
        source: Its tensor.
        row: Its place among the sources.
        arguments: The operator's arguments, a sequence for those per source.
    """
    read = {name: arguments[name] for name in of.reads}
    own = {k: v[row] if isinstance(v, (tuple, list)) else v for k, v in read.items()}
    return of.function(source, **own)
