"""Genes: what a coordinate of the unit cube stands for, a number or a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.layout import Component

if TYPE_CHECKING:
    from collections.abc import Sequence

DECIMALS = 5
"""Digits kept of a gene's value, so that recipes can be read and compared."""

DIGITS = 5
"""Significant digits kept of a value that is searched by orders of magnitude."""

Genotype = tuple[float, ...]
"""A point in the unit cube, one coordinate per gene."""

Part = tuple[int, Component | None]
"""Tensors that share genes: a layer group, and a component or None for all without their own."""

Reach = Component | Literal["all"] | None
"""The part of the model a gene drives: one, all, or None for those without genes of their own."""

OPERATOR, PRESENCE, POST = "operator", "takes part", "post"
"""What genes that are no numbers choose: the operator, whether a source is merged at all, and what
is done to the merge."""

TRUST = "trust"
"""What the gene is called that says how far weights follow the prior."""

DROPPED, KEPT = "no", "yes"
"""The choices of a source's presence."""

NOTHING = "nothing"
"""The choice to leave the merge as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gene:
    """One coordinate of a genotype and what it drives.

    Attributes:
        parameter: The operator parameter; `OPERATOR`, `PRESENCE` or `POST` of a gene with
            choices; `TRUST` of that of the prior.
        source: Index of the source it is for; None if all sources share it.
        group: Index of the layer group; None if all share it.
        component: The part of the model.
        low: Value at coordinate 0.
        high: Value at coordinate 1.
        log: Whether the value's logarithm follows the coordinate, not the value.
        operators: The operators that it drives; empty for all that the search merges with.
        choices: What it chooses from, each in a part of [0, 1] as large as any other; empty for a
            number. Coordinates of one part mean the same.
    """

    parameter: str
    source: int | None
    group: int | None
    component: Reach
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    operators: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def value(self, coordinate: float) -> float:
        """The parameter's value at a coordinate in [0, 1]."""
        if self.log:
            value = float(f"{self.low * (self.high / self.low) ** coordinate:.{DIGITS}g}")
        else:
            # Adding zero makes 0.0 of -0.0, which would be written differently.
            value = round(self.low + coordinate * (self.high - self.low), DECIMALS) + 0.0
        return min(max(value, self.low), self.high)

    def choice(self, coordinate: float) -> str:
        """What is chosen at a coordinate in [0, 1]."""
        return self.choices[min(int(coordinate * len(self.choices)), len(self.choices) - 1)]

    def middle(self, choice: str) -> float:
        """The coordinate in the middle of those of a choice."""
        return (self.choices.index(choice) + 0.5) / len(self.choices)

    def drives(self, among: Sequence[Part]) -> Sequence[Part]:
        """The parts of the model that it drives."""
        if self.group is not None and self.component != "all":
            return [(self.group, self.component)]
        return [
            (group, component)
            for group, component in among
            if self.group in {None, group} and self.component in {"all", component}
        ]
