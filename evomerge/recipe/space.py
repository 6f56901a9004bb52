"""Search spaces: which merges a search can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from evomerge.layout import Component
from evomerge.recipe.merge import Value
from evomerge.recipe.prior import PriorSettings
from evomerge.recipe.ranges import Bounds, Range, bounds_of
from evomerge.recipe.schema import Flag, Positive, Strict, Text

if TYPE_CHECKING:
    from typing_extensions import Self


def _kind_of_groups(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "sizes"
    return "word" if isinstance(value, str) else "count"


LayerGroups = Annotated[
    Annotated[Positive, Tag("count")]
    | Annotated[tuple[Positive, ...], Tag("sizes")]
    | Annotated[Literal["each"], Tag("word")],
    Discriminator(_kind_of_groups),
]
"""A number of equal runs of layers, the number of layers in each run, or every layer by itself."""


def _different_operators(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("give at least one operator")
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return names


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


Operators = Annotated[
    Annotated[Text, Tag("one")]
    | Annotated[tuple[Text, ...], AfterValidator(_different_operators), Tag("several")],
    Discriminator(_one_or_several),
]
"""The name of an operator, or names of several that the search chooses from."""

Axis = Literal["sources", "layers", "components"]


class LayerPath(Strict):
    """A path through the sources' layers, with a step for each layer group.

    Attributes:
        repeats: How many times in a row a group may run; it may always be left out.
        scale: Lowest and highest factor on what the layers of a group add; 1 when absent.
    """

    repeats: Annotated[Positive, Field(le=8)] = 2
    scale: Range | None = None


class GenomeSpace(Strict):
    """Which merges the search can reach.

    Attributes:
        operator: Name of the merge operator, or a list of those that the search chooses from.
        layer_groups: Number of equal runs of layers with genes of their own, a list of the numbers
            of layers in each run, or `each` for every layer by itself.
        components: Parts of the model with genes of their own; the others share one.
        ranges: Lowest and highest value of a parameter, as `[low, high]`, or as
            `{low: 0.01, high: 3, log: true}` for orders of magnitude; the operator's own ranges
            when absent.
        fixed: Parameters that are not searched.
        shared: Parameters that have one gene for all `sources`, `layers` or `components`, instead
            of one for each.
        drop_sources: Let the search leave sources out, as far as the operator can do without.
        post: An operator that the search may apply to the merge, as it sees fit. Ranges and fixed
            values of parameters that only this operator has are its own.
        prior: How far weights follow what is measured of the sources before the search.
        path: Search which layers a model is made of instead of their weights, with `passthrough`.
    """

    operator: Operators = "task_arithmetic"
    layer_groups: LayerGroups = 4
    components: tuple[Component, ...] = ()
    ranges: dict[str, Range] = Field(default_factory=dict)
    fixed: dict[str, Value] = Field(default_factory=dict)
    shared: dict[str, tuple[Axis, ...]] = Field(default_factory=dict)
    drop_sources: Flag = False
    post: Literal["aim"] | None = None
    prior: PriorSettings | None = None
    path: LayerPath | None = None

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that the search chooses from, also if it is one only."""
        return (self.operator,) if isinstance(self.operator, str) else self.operator

    @property
    def bounds(self) -> dict[str, Bounds]:
        """The ranges, however they were written."""
        return {name: bounds_of(given) for name, given in self.ranges.items()}

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name, bounds in self.bounds.items():
            problem = bounds.problem()
            if problem:
                raise ValueError(f"ranges.{name}: {problem}")
            if name in self.fixed:
                raise ValueError(f"{name} is both in ranges and in fixed; keep one")
        if self.post in self.operators:
            raise ValueError(f"{self.post} is both the operator and what follows it; keep one")
        return self

    @model_validator(mode="after")
    def _path_is_alone(self) -> Self:
        if self.path is None:
            return self
        if self.operators != ("passthrough",):
            raise ValueError(
                f"path: layers are taken as they are, found operator {self.operator}; write "
                "operator: passthrough"
            )
        for name in type(self).model_fields.keys() - {"path", "operator", "layer_groups"}:
            if getattr(self, name):
                raise ValueError(f"path: {name} has no say beside a path; leave it out")
        if self.path.scale is not None:
            problem = bounds_of(self.path.scale).problem()
            if problem:
                raise ValueError(f"path.scale: {problem}")
        return self
