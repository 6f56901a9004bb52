"""NearSwap: take the second model's entries where they are near to the first model's.

Alchemonaut, "QuartetAnemoi-70B-t0.0001", 2024,
https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, as in mergekit.
"""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor

from evomerge.operators.parameters import Interval, Search
from evomerge.operators.registry import operator

NEAR = 1e-6
"""Least distance: keeps equal entries from being divided by zero."""

Distance = Annotated[float, Interval(0.0, math.inf), Search(0.0, 0.0025)]


@operator(space="weight", elementwise=True, sources=(2, 2))
def nearswap(tensors: Tensor, *, t: Distance) -> Tensor:
    """Replace the first source's entries by the second's as far as these are near.

    Args:
        tensors: One parameter of both sources, shape `(2, *S)`, floating point.
        t: Distance, in units of the entries, up to which an entry is replaced; farther ones are
            moved by `t` towards the second source.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    first, second = tensors[0], tensors[1]
    # mergekit divides a number by a tensor, which torch does in these two steps.
    share = ((first - second).abs().clamp(min=NEAR).reciprocal() * t).clamp(0, 1)
    return share * second + (1 - share) * first
