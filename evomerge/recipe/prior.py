"""What a search takes for likely before it has tried anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evomerge.recipe.schema import Number, Strict

PriorKind = Literal["sensitivity", "fisher"]

Trust = Annotated[Number, Field(ge=-1, le=1)]
"""What editors are told of an end of the range; the check below speaks of both at once."""


def _as_range(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (value, value) if is_number else value


def _rising(trust: tuple[float, float]) -> tuple[float, float]:
    low, high = trust
    if not -1 <= low <= high <= 1:
        found = f"{low:g}" if low == high else f"[{low:g}, {high:g}]"
        raise ValueError(
            f"expected a number from -1 to 1, or a range such as [0, 1], found {found}"
        )
    return trust


class PriorSettings(Strict):
    """How far the weights of a source follow what was measured of it before the search.

    Attributes:
        kind: What is measured of each source on its calibration texts: `sensitivity`, how much
            its loss would change if a weight were zero, or `fisher`, its squared gradients; both
            per weight.
        trust: A number from 0, not at all, to 1, in proportion, or down to -1, in inverse
            proportion: careful where it is high. A range adds a gene.
    """

    kind: PriorKind
    trust: Annotated[
        tuple[Number, Number],
        BeforeValidator(_as_range, json_schema_input_type=Trust | tuple[Trust, Trust]),
        AfterValidator(_rising),
    ] = (0.0, 1.0)
