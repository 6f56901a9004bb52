"""From the slices of a mergekit recipe to our sources and slabs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from evomerge.recipe.merge import Source
from evomerge.recipe.stack import BASE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.recipe.mergekit.entries import Entries
    from evomerge.recipe.mergekit.names import Method
    from evomerge.recipe.mergekit.parts import Part


class Inputs:
    """The sources of a recipe, and which of them take part in which slice.

    A model that slices list in different orders, or that one slice lists twice, is several
    sources, so that the order of sources is that of every slice.

    Args:
        entries: The document.
        method: Its merge method.
        parts: Its slices.
        base: Its base model.
        layers: Number of layers of the model that gives the config.
    """

    def __init__(
        self,
        entries: Entries,
        method: Method,
        parts: Sequence[Part],
        base: str | None,
        layers: int,
    ) -> None:
        self._entries, self._method, self._parts = entries, method, parts
        self._models: list[str] = []
        self._members = [self._place(part) for part in parts]
        self._check_bases(base)
        first, last = parts[0], parts[-1]
        self.drops_models = len(first.models) < len(last.models)
        if self.drops_models:
            dropped = ", ".join(model for model, _ in last.models[len(first.models) :])
            entries.doubt(
                last.path,
                f"lists more models than the first slice, so mergekit drops {dropped} from the "
                "tensors after the layers; list as many models in both",
            )
        self.are_whole = not self.drops_models and last.stop == layers and self._in_place()

    def named(self) -> list[tuple[str, str | None]]:
        """The model of every source, and a name where its own will not do."""
        labels = Counter(Source(model=model).label for model in self._models)
        return [(model, self._name(index, labels)) for index, model in enumerate(self._models)]

    def parts_of(self, source: int) -> list[Part]:
        """The slices that a source takes part in."""
        return [
            part
            for part, members in zip(self._parts, self._members, strict=True)
            if source in members
        ]

    def slabs(self) -> list[dict[str, Any]]:
        """The slices as slabs."""
        slabs = [
            self._slab(part, members, part.stop - part.start)
            for part, members in zip(self._parts, self._members, strict=True)
        ]
        if self.drops_models:
            last = self._parts[-1]
            kept = {model for model, _ in last.models[: len(self._parts[0].models)]}
            if self._method.base in ("origin", "first") and last.base not in kept:
                self._entries.refuse(last.path, "the base is among the models that are dropped")
            members = [i for i in self._members[-1] if self._models[i] in kept]
            slabs.append(self._slab(last, members, 0))
        return slabs

    def _slab(self, part: Part, members: Sequence[int], height: int) -> dict[str, Any]:
        inputs = dict(zip(self._place(part), part.inputs(self._method), strict=True))
        starts = {index: inputs[index][1] for index in members}
        first = starts[members[0]]
        base = part.base_start(first)
        if len(members) == len(self._models) and {*starts.values(), base} == {first}:
            return {"layers": [first, first + height]}
        labels = [name or Source(model=model).label for model, name in self.named()]
        ranges = {labels[index]: [start, start + height] for index, start in starts.items()}
        if base != first:
            ranges[BASE] = [base, base + height]
        return {"layers": ranges}

    def _place(self, part: Part) -> list[int]:
        """The sources of a slice, in rising order; new ones are added where it takes that."""
        found: list[int] = []
        for model, _ in part.inputs(self._method):
            after = found[-1] + 1 if found else 0
            if model in self._models[after:]:
                found.append(self._models.index(model, after))
            else:
                self._models.append(model)
                found.append(len(self._models) - 1)
        return found

    def _name(self, index: int, labels: Counter[str]) -> str | None:
        model = self._models[index]
        label = Source(model=model).label
        if labels[label] > 1 or (label == BASE and not self.are_whole):
            return f"{index}:{model}"
        return None

    def _in_place(self) -> bool:
        """Whether all models are in every slice, with the layers that have their place there."""
        return all(
            members == list(range(len(self._models)))
            and all(start == part.start for _, start in part.models)
            for part, members in zip(self._parts, self._members, strict=True)
        )

    def _check_bases(self, base: str | None) -> None:
        for part in self._parts:
            if part.base != base and self._method.base in ("origin", "maybe"):
                self._entries.refuse(
                    (*part.path, "base_model"),
                    "base_model: task vectors are measured from one base; merge this slice in a "
                    "document of its own, with a name, and stack it by passthrough",
                )
