"""The candidates every search starts from: the bar that offspring have to clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.recipe.merge import Dtype, MergeRecipe, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIFORM_AVERAGE = "uniform average"

Kind = Literal["base", "source", "baseline", "offspring", "refined", "control"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A candidate of generation zero.

    Attributes:
        kind: What it is.
        name: What it is called in the leaderboard.
        recipe: Its merge recipe.
    """

    kind: Kind
    name: str
    recipe: MergeRecipe


def alone(base: str, source: Source, dtype: Dtype) -> MergeRecipe:
    """The recipe of a source as it is."""
    return MergeRecipe(base=base, sources=(source,), operator="linear", dtype=dtype)


def starting_candidates(base: str, sources: Sequence[Source], dtype: Dtype) -> list[Start]:
    """The base, each source, their uniform average, and task arithmetic at 0.3 and at 1/n."""
    plain = tuple(source.model_copy(update={"parameters": {}}) for source in sources)

    def arithmetic(weight: float) -> MergeRecipe:
        return MergeRecipe(
            base=base,
            sources=plain,
            operator="task_arithmetic",
            parameters={"weight": weight},
            dtype=dtype,
        )

    itself = Source(model=base, name="base")
    share = round(1 / len(plain), 5)
    average = MergeRecipe(base=base, sources=plain, operator="linear", dtype=dtype)
    return [
        Start(kind="base", name="base", recipe=alone(base, itself, dtype)),
        *(
            Start(kind="source", name=each.label, recipe=alone(base, each, dtype))
            for each in plain
        ),
        Start(kind="baseline", name=UNIFORM_AVERAGE, recipe=average),
        Start(kind="baseline", name="task arithmetic 0.3", recipe=arithmetic(0.3)),
        Start(kind="baseline", name=f"task arithmetic {share:g}", recipe=arithmetic(share)),
    ]
