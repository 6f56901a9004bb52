"""Numbers as rows of block characters, for terminals of any width, with or without colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
NOTHING = "·"


def block_row(values: Sequence[float], top: float, width: int) -> str:
    """Draw values as one character each, from `▁` for little to `█` for `top`; `·` is zero.

    Args:
        values: Numbers from 0 to `top`.
        top: What the highest block stands for; above 0, unless all values are 0.
        width: Most characters. Of neighbours that share one, the largest is drawn.
    """
    return "".join(_block(max(values[part]), top) for part in _parts(len(values), width))


def axis(labels: Sequence[str], width: int) -> str:
    """Every fifth number among the labels of the columns that `block_row` draws, if it fits."""
    line = ""
    for column, part in enumerate(_parts(len(labels), width)):
        label = labels[part.start]
        is_wanted = label.isdecimal() and int(label) % 5 == 0
        if is_wanted and len(line) + bool(line) <= column and column + len(label) <= width:
            line = line.ljust(column) + label
    return line


def _block(value: float, top: float) -> str:
    if value <= 0:
        return NOTHING
    return BLOCKS[min(len(BLOCKS) - 1, int(value / top * len(BLOCKS)))]


def _parts(count: int, width: int) -> list[slice]:
    """Split `count` columns into at most `width` runs of equal length."""
    step = -(-count // max(1, width))
    return [slice(start, start + step) for start in range(0, count, step)]
