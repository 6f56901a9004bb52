"""Groups of rows that cover the same text as a group of the teacher's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The groups that lie within some rows, which split none.

    Attributes:
        which: Their numbers.
        rows: The rows that belong to one, counted within the chunk; shape `(r,)`.
        owners: The group of each, counted from the first of these; shape `(r,)`.
        last: The last row of each; shape `(g,)`.
    """

    which: slice
    rows: Tensor
    owners: Tensor
    last: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """The sum over the rows of each group; from shape `(n,)` to `(g,)`."""
        zeros = values.new_zeros(len(self.last))
        return zeros.index_add_(0, self.owners, values[self.rows])

    def spread(self, values: Tensor, count: int) -> Tensor:
        """Each group's value at all of its rows, 0 elsewhere; from shape `(g,)` to `(count,)`."""
        return values.new_zeros(count).index_copy_(0, self.rows, values[self.owners])


def groups_within(spans: Tensor, rows: slice, device: torch.device) -> Groups:
    """The groups of some rows.

    Args:
        spans: First row and row after the last one of each group; see `RowLoss`.
        rows: A chunk, which splits no group.
        device: Where the rows' numbers are needed.
    """
    first, stop = torch.searchsorted(
        spans[:, 0].contiguous(), torch.tensor([rows.start, rows.stop])
    ).tolist()
    starts, ends = (spans[first:stop] - rows.start).unbind(1)
    lengths = ends - starts
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    before = lengths.cumsum(0) - lengths
    within = torch.arange(len(owners)) + (starts - before)[owners]
    return Groups(
        which=slice(first, stop),
        rows=within.to(device),
        owners=owners.to(device),
        last=(ends - 1).to(device),
    )
