"""Stacked layers: which layers of which models the result is built from, bottom up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Discriminator, Tag, model_validator

from evomerge.recipe.schema import Natural, Strict, Text

if TYPE_CHECKING:
    from typing_extensions import Self

BASE = "base"
"""What stands for the base model among the names of sources."""

Range = tuple[Natural, Natural]


def _kind(value: object) -> str:
    return "range" if isinstance(value, (list, tuple)) else "ranges"


class Slab(Strict):
    """A run of layers of the result.

    Attributes:
        layers: Half-open range of the layers that are taken from every source, or a range for
            each source that takes part, by its name; `base` gives the base model's, else it is
            that of the first source. Empty ranges add no layer: in the first or last slab they
            say which sources the tensors before or after the layers come from.
    """

    layers: Annotated[
        Annotated[Range, Tag("range")] | Annotated[Mapping[Text, Range], Tag("ranges")],
        Discriminator(_kind),
    ]

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        ranges = self.layers if isinstance(self.layers, Mapping) else {"": self.layers}
        if not ranges.keys() - {BASE}:
            raise ValueError("layers: names no source; give a range, or one for each source")
        for label, (start, stop) in ranges.items():
            if start > stop:
                of = f" of {label}" if label else ""
                raise ValueError(f"layers{of}: [{start}, {stop}] falls; write the lower end first")
        if len({stop - start for start, stop in ranges.values()}) > 1:
            found = ", ".join(f"{label} {list(ends)}" for label, ends in ranges.items())
            raise ValueError(f"layers: all ranges of a slab must be equally long, found {found}")
        return self

    @property
    def height(self) -> int:
        """Number of layers that it adds."""
        layers = self.layers
        start, stop = next(iter(layers.values())) if isinstance(layers, Mapping) else layers
        return stop - start

    def start(self, label: str) -> int | None:
        """Its first layer in a source, or in the base if `BASE`; None if it names none."""
        if not isinstance(self.layers, Mapping):
            return self.layers[0]
        return self.layers[label][0] if label in self.layers else None

    def labels(self) -> set[str]:
        """The sources that it names; none if it means all."""
        return set(self.layers) - {BASE} if isinstance(self.layers, Mapping) else set()


def _has_layers(slabs: tuple[Slab, ...]) -> tuple[Slab, ...]:
    if not any(slab.height for slab in slabs):
        raise ValueError("has no layer; give at least one slab that is not empty")
    return slabs


Stack = Annotated[tuple[Slab, ...], AfterValidator(_has_layers)]
"""Slabs from the bottom up."""
