"""Groups rows into batches by the tokens that they hold."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Row = TypeVar("Row", bound=Sized)

PADDING = 0.05
"""Share of a batch that may be padding, if it is large enough without it."""

ENOUGH = 1 / 8
"""Share of the most tokens with which a forward pass is as fast per token as a full one."""


def token_batches(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Group rows of similar length, longest first; equally long ones keep their order.

    Args:
        rows: The rows, whose `len` is their number of tokens.
        most: Most tokens of a batch, padding included; a longer row is a batch by itself.
    """
    batch: list[Row] = []
    read = 0
    for row in sorted(rows, key=lambda each: -len(each)):
        width = len(batch[0]) if batch else 0
        filled = (len(batch) + 1) * width
        padded = filled - read - len(row) > PADDING * filled
        enough = filled - width >= ENOUGH * most
        if batch and (filled > most or (padded and enough)):
            yield batch
            batch, read = [], 0
        batch.append(row)
        read += len(row)
    if batch:
        yield batch
