"""Ranges: the values of a parameter that a search explores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Tag

from evomerge.recipe.schema import Flag, Number, Strict


class Bounds(Strict):
    """The values of a parameter that a search explores.

    Attributes:
        low: The lowest.
        high: The highest.
        log: Every order of magnitude gets as much of the search, instead of every difference.
    """

    low: Number
    high: Number
    log: Flag = False

    def problem(self) -> str | None:
        """Say what is wrong with it; None when nothing is."""
        if self.low >= self.high:
            return f"[{self.low:g}, {self.high:g}] is empty or reversed"
        if self.log and self.low <= 0:
            return f"with log, low must be above 0, found {self.low:g}"
        return None


def _kind(value: object) -> str:
    return "bounds" if isinstance(value, (dict, Bounds)) else "pair"


Range = Annotated[
    Annotated[tuple[Number, Number], Tag("pair")] | Annotated[Bounds, Tag("bounds")],
    Discriminator(_kind),
]
"""Bounds; a pair stands for the lowest and the highest value, and no log."""


def bounds_of(given: Range) -> Bounds:
    """A range as bounds, however it was written."""
    return given if isinstance(given, Bounds) else Bounds(low=given[0], high=given[1])
