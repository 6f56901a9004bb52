"""Calls an operator on one whole tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.operators.chunks import Chunks
from evomerge.operators.measure import take_measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from evomerge.operators.registry import Operator


def apply(
    operator: Operator,
    stack: Tensor,
    arguments: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    stacks: Iterable[Tensor] | None = None,
) -> Tensor:
    """Merge one parameter: measure, if the operator does, then merge.

    Args:
        operator: The operator.
        stack: The sources, shape `(M, *S)`: weights or task vectors as the operator takes them.
        arguments: A value for every parameter; a tuple of length M for those per source.
        inputs: A value for everything else the operator takes, see `registry.INPUTS`; what it
            does not take is ignored. What is measured or derived is made when absent.
        stacks: The stacks of the whole model, for measures of models; `stack` alone if absent.

    Returns:
        Shape `(*S,)`.
    """
    given = {**arguments, **(inputs or {})}
    for name, derive in operator.derived.items():
        if name not in given:
            given[name] = [derive(Chunks.of(source)) for source in stack]
    if operator.measure is not None and "measured" not in given:
        given["measured"] = take_measure(operator.measure, stack, given, stacks)
    wanted = operator.parameters.keys() | operator.inputs
    return operator.function(stack, **{k: v for k, v in given.items() if k in wanted})
