"""What a search takes for likely before it has tried anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evomerge.recipe.schema import Number, Strict

PriorKind = Literal["sensitivity", "fisher"]

Trust = tuple[float, float]
"""Least and greatest trust; the same if it is fixed."""

_Share = Annotated[Number, Field(ge=0, le=1)]
"""What editors are told; the check below says it once for both ends."""


def _as_range(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (value, value) if is_number else value


def _rising_shares(trust: Trust) -> Trust:
    low, high = trust
    if not 0 <= low <= high <= 1:
        found = f"{low:g}" if low == high else f"[{low:g}, {high:g}]"
        raise ValueError(
            f"expected a number from 0 to 1, or a range such as [0, 1], found {found}"
        )
    return trust


class PriorSettings(Strict):
    """How far the weights of a source follow what was measured of it before the search.

    Attributes:
        kind: What is measured of each source on its calibration texts: `sensitivity`, how much
            its loss would change if a weight were zero, or `fisher`, its squared gradients; both
            per weight.
        trust: A number from 0, not at all, to 1, in proportion; or a range, which adds a gene.
    """

    kind: PriorKind
    trust: Annotated[
        tuple[Number, Number],
        BeforeValidator(_as_range, json_schema_input_type=_Share | tuple[_Share, _Share]),
        AfterValidator(_rising_shares),
    ] = (0.0, 1.0)
