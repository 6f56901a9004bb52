"""What a search takes for likely before it has tried anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evomerge.recipe.schema import Number, Strict

PriorKind = Literal["sensitivity", "fisher", "kinship"]

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
    """How far a search follows what was measured of its sources before it began.

    Attributes:
        kind: What is measured of each source. On its calibration texts: `sensitivity`, how much
            its loss would change if a weight were zero, or `fisher`, its squared gradients; both
            per weight. From the weights alone: `kinship`, of which it is what is missing, 1 less
            the mean cosine of its task vector with those of the others.
        trust: How far weights follow it: a number from 0, not at all, to 1, in proportion, or down
            to -1, in inverse proportion: careful where it is high. A range adds a gene.
        steps: How far the steps of mutations follow it, in the same way: below 0 genes move little
            where it is high. For strategies that mutate genes by steps of their own.
    """

    kind: PriorKind
    trust: Annotated[
        tuple[Number, Number],
        BeforeValidator(_as_range, json_schema_input_type=Trust | tuple[Trust, Trust]),
        AfterValidator(_rising),
    ] = (0.0, 1.0)
    steps: Trust = 0.0

    @property
    def of_texts(self) -> bool:
        """Whether it is measured on texts."""
        return self.kind != "kinship"
