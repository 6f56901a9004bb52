"""A child between two parents, with a random part of its entries moved.

Du et al., "Knowledge Fusion By Evolving Weights of Language Models", 2024,
https://arxiv.org/abs/2406.12208, as its authors' code has it: the mutant lies on the segment to
one other parent, and no entry is sure to be taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.operators.inheritance import Granularity, chances
from evomerge.operators.parameters import Fraction
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator


@operator(space="weight", elementwise=True, sources=(2, 2))
def evolver(
    tensors: Tensor,
    *,
    mutation: Fraction = 0.5,
    crossover: Fraction = 0.5,
    granularity: Granularity = "scalar",
    draws: Sequence[Draws],
    row_length: Tensor,
) -> Tensor:
    """Move a random part of the first source's entries towards the second source.

    Every entry of the child lies between those of its parents, rounding included.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        mutation: How far an entry moves (F): 0 stays, 1 arrives at the second source.
        crossover: Chance of an entry to move (Cr).
        granularity: What moves or stays in one piece; the paper's code moves scalars.
        draws: Random numbers of each source; those of the first are used.
        row_length: Entries of a row of the tensor, 1 in vectors; shape `()`.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    first, second = tensors
    step = torch.as_tensor(mutation, dtype=first.dtype)
    # Measured from the nearer end no rounding leaves the segment.
    gap = second - first
    moved = torch.where(step < 0.5, first + gap * step, second - gap * (1 - step))
    drawn = chances(draws[0], first, granularity, row_length)
    return torch.where(drawn < crossover, moved, first)
