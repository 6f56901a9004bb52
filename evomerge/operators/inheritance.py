"""Which of two parents an entry of a child is from, drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.operators.randomness import Draws

Granularity = Literal["scalar", "row", "tensor", "layer"]
"""What is inherited in one piece."""


def chances(own: Draws, like: Tensor, granularity: Granularity, row_length: Tensor) -> Tensor:
    """Draw numbers in [0, 1), the same one for all that is inherited in one piece.

    Args:
        own: Random numbers of the child.
        like: A block of the tensor, shape `(*S,)`.
        granularity: What is inherited in one piece.
        row_length: Entries of a row of the whole tensor, shape `()`.

    Returns:
        Shape `(*S,)`, or `()` where the whole block gets one number; float32.
    """
    if granularity == "scalar":
        return own.uniform(like.shape)
    if granularity == "row":
        return own.of_rows(like.shape, row_length)
    return (own.of_tensor(1) if granularity == "tensor" else own.of_layer(1))[0]
