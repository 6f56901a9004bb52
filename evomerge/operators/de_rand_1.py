"""Differential evolution in the space of weights.

Storn and Price, "Differential Evolution: A Simple and Efficient Heuristic for Global Optimization
over Continuous Spaces", 1997, https://doi.org/10.1023/A:1008202821328, section 2: DE/rand/1 with
binomial crossover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.operators.parameters import Fraction, Interval, Search
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator


@operator(space="weight", elementwise=True, sources=(4, 4))
def de_rand_1(
    tensors: Tensor,
    *,
    mutation: Annotated[float, Interval(0.0, 2.0), Search(0.2, 1.0)] = 0.5,
    crossover: Fraction = 0.5,
    draws: Sequence[Draws],
) -> Tensor:
    """Cross the first source with the second plus the difference of the last two.

    The paper forces one entry of the whole vector, drawn at random, to come from the mutant. Here
    it is the first entry of every tensor, which needs no tensor's size.

    Args:
        tensors: One parameter of the target, of the model that is mutated and of the two whose
            difference is added to it, shape `(4, *S)`, floating point.
        mutation: Factor on the difference (F).
        crossover: Chance of an entry to come from the mutant (CR).
        draws: Random numbers of each source; those of the first are used.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    target, mutated, plus, minus = tensors
    mutant = mutated + (plus - minus) * mutation
    index = draws[0].start + torch.arange(math.prod(target.shape))
    taken = (draws[0].uniform(target.shape) < crossover) | (index == 0).view(target.shape)
    return torch.where(taken, mutant, target)
