"""Exact order statistics in linear time, of tensors too large to sort, and orders of rows.

Floyd and Rivest, "Expected time bounds for selection", 1975: a sample brackets the answer; one
pass counts what lies below and keeps what lies inside the bracket, a small part of the whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.operators.chunks import CHUNK, Chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAMPLE = 1 << 14
"""About how many entries the bracket is read off, at least."""


def order_statistic(tensors: Iterable[Tensor] | Chunks, rank: int) -> Tensor:
    """The entry that `rank` others come before when all are sorted in rising order.

    Args:
        tensors: Parts of what is looked at, of any shapes; gone through up to three times.
            Of `Chunks` it is the magnitudes that are looked at.
        rank: From 0 to the number of entries less one.

    Returns:
        Shape `()`, the dtype of the tensors; the same for any order and any cut of the parts.
        Entries that are no numbers come before all others.
    """
    low, high = _bracket(tensors, rank)
    split = _split(tensors, low, high)
    if not split.below <= rank < split.reached:
        # The sample misled us, which is rare; then nothing is left out.
        low, high = -math.inf, math.inf
        split = _split(tensors, low, high)
    if (place := rank - split.below) < 0:
        return split.entries.new_tensor(torch.nan)
    if place < split.at_low:
        return split.entries.new_tensor(low)
    if (place := place - split.at_low) < split.entries.numel():
        return split.entries.kthvalue(place + 1).values
    return split.entries.new_tensor(high)


def _bracket(tensors: Iterable[Tensor] | Chunks, rank: int) -> tuple[float, float]:
    total = _size(tensors)
    if total <= SAMPLE:
        return -math.inf, math.inf
    # An odd step does not fall in step with rows and columns.
    step = total // max(SAMPLE, int(total ** (2 / 3))) | 1
    if isinstance(tensors, Chunks):
        sample = tensors.take(slice(None, None, step)).abs()
    else:
        sample = torch.cat([tensor.reshape(-1)[::step] for tensor in tensors])
    sample = sample.sort().values
    place = rank / total * len(sample)
    slack = 2 * math.sqrt(len(sample))  # four standard deviations in the middle
    low, high = int(place - slack), int(place + slack) + 1
    return (
        float(sample[low]) if low >= 0 else -math.inf,
        float(sample[high]) if high < len(sample) else math.inf,
    )


class _Split(NamedTuple):
    """Entries split by a bracket.

    Attributes:
        below: How many come before its lower end.
        at_low: How many are equal to that.
        reached: How many do not come after its upper end.
        entries: Those between the ends. Those at the ends are not kept: where a task vector has
            few different values, as between models of low precision, they are a large part of it.
    """

    below: int
    at_low: int
    reached: int
    entries: Tensor


def _split(tensors: Iterable[Tensor] | Chunks, low: float, high: float) -> _Split:
    below = at_low = reached = 0
    # One block that grows: many small ones would keep the heap from using the room between them
    # for chunks again.
    between, dtype = bytearray(), np.dtype(np.float32)
    for chunk in _pieces(tensors):
        # numpy compares and picks several times faster than torch does.
        values = chunk.numpy()
        dtype = values.dtype
        above_low = values > low
        between += values[above_low & (values < high)].data
        not_below = int(np.count_nonzero(values >= low))
        below += values.size - not_below
        at_low += not_below - int(np.count_nonzero(above_low))
        reached += values.size - int(np.count_nonzero(values > high))
    return _Split(below, at_low, reached, torch.from_numpy(np.frombuffer(between, dtype)))


def _size(tensors: Iterable[Tensor] | Chunks) -> int:
    if isinstance(tensors, Chunks):
        return tensors.entries
    return sum(tensor.numel() for tensor in tensors)


def _pieces(tensors: Iterable[Tensor] | Chunks) -> Iterator[Tensor]:
    if isinstance(tensors, Chunks):
        yield from (chunk.abs_() for chunk in tensors.pieces())
        return
    for tensor in tensors:
        yield from torch.split(tensor.reshape(-1), CHUNK)


def order_of_rows(magnitudes: Tensor) -> Tensor:
    """The places of each row's entries in rising order; of equal ones first the first.

    Args:
        magnitudes: Shape `(n, length)`, not negative, floating point.

    Returns:
        Shape `(n, length)`, int64.
    """
    if magnitudes.dtype != torch.float32:
        return magnitudes.argsort(dim=1, stable=True)
    # The bits of a float32 that is not negative sort as it does. Halves of them, the low ones
    # first, sort in linear time: a third of what any sort of the whole takes.
    bits = magnitudes.view(torch.int32)
    by_low = _radix(bits & 0xFFFF)
    by_high = _radix((bits >> 16).gather(1, by_low))
    return by_low.gather(1, by_high)


def _radix(numbers: Tensor) -> Tensor:
    """The places of each row's numbers below 2^16 in rising order."""
    order = np.argsort(numbers.numpy().astype(np.uint16), axis=1, kind="stable")
    return torch.from_numpy(order)
