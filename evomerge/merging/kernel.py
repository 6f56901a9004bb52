"""The inner loop of elementwise operators: from stored inputs to the stored result."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evomerge.operators.fuse import Entries, FusedLoop
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from evomerge.operators.registry import Operator


@functools.cache
def kernel(
    operator: str,
    constants: tuple[tuple[str, Any], ...],
    compute: torch.dtype,
    store: torch.dtype,
    sources: int,  # noqa: ARG001 (another number is another loop)
) -> FusedLoop:
    """The loop that merges with an operator, the same one for the same arguments.

    Its entries are `base`, `sources` and the inputs of the operator that have a value per entry;
    its arguments are the operator's numbers, as tensors of shape `(M,)` per source and `()` for
    all, and its other inputs.

    Args:
        operator: Name of an elementwise operator.
        constants: Its flags and choices.
        compute: The dtype of the arithmetic.
        store: The dtype that the result is rounded to.
        sources: Number of sources.
    """
    found = find_operator(operator)
    loop = functools.partial(_merge, found, dict(constants), compute, store)
    return FusedLoop(loop, fusible=found.fusible)


def _merge(
    operator: Operator,
    constants: Mapping[str, Any],
    compute: torch.dtype,
    store: torch.dtype,
    entries: Entries,
    arguments: Mapping[str, Any],
    out: Tensor,
) -> None:
    given = {**constants, **arguments}
    given |= {name: value for name, value in entries.items() if name in operator.inputs}
    rows = [source.to(compute) for source in entries["sources"]]
    if "base" in operator.inputs:
        given["base"] = entries["base"][0].to(compute)
    if operator.space == "weight":
        merged = operator.function(rows, **given)
    else:
        base = entries["base"][0].to(compute)
        merged = operator.function([row - base for row in rows], **given) + base
    # Rounded to what it is stored in, also where there is room for more.
    out.copy_(merged if out.dtype == store else merged.to(store))
