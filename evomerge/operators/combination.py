"""Merges that add up the sources, each times a number that follows from their inner products."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.operators.accumulate import add_up

if TYPE_CHECKING:
    from collections.abc import Sequence

Combination = Callable[..., Tensor]


def combination(shares: Callable[..., Tensor]) -> Combination:
    """Make a rule for the sources' shares a merge.

    Args:
        shares: Takes inner products of the sources, shape `(M, M)`, and numbers as tensors, all
            float64; returns the shares of the sources, shape `(M,)`.

    Returns:
        A function that takes the rows of a stack, their inner products and the numbers, and
        returns the sum of the rows, each times its share.
    """

    # The compiler must not look inside: it would work out the shares again for every entry.
    @torch.library.custom_op(
        f"evomerge::{shares.__name__.strip('_')}",
        mutates_args=(),
        schema="(Tensor gram, Tensor[] numbers) -> Tensor",
    )
    def rule(gram: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        return shares(gram, *numbers)

    @rule.register_fake
    def _(gram: Tensor, numbers: Sequence[Tensor]) -> Tensor:  # noqa: ARG001 (has a fixed signature)
        return gram.new_empty(len(gram))

    def combine(rows: Tensor | Sequence[Tensor], gram: Tensor, *numbers: Any) -> Tensor:
        dtype = rows[0].dtype
        # As precise as the numbers of a compiled loop are, and no more.
        given = [torch.as_tensor(number, dtype=dtype).double() for number in numbers]
        # Only a compiler needs an operation of torch's, whose first use takes seconds.
        compiling = torch.compiler.is_compiling()
        parts = rule(gram, given) if compiling else shares(gram, *given)
        scaled = (row * part for row, part in zip(rows, parts.to(dtype), strict=True))
        return add_up(scaled, rows[0])

    return combine
