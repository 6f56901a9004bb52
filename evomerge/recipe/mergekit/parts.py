"""The slices of a mergekit recipe: which layers of which models, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.recipe.mergekit.parameters import ParameterReader, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from evomerge.recipe.mergekit.entries import Entries
    from evomerge.recipe.mergekit.names import Method
    from evomerge.recipe.yaml import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A slice, or the whole model.

    Attributes:
        start: Its first layer in the result.
        stop: One past its last.
        path: Where it stands in the document.
        models: Its models as they are listed, each with its first layer there.
        own: Parameters of each model; the first entry's where a model is listed twice.
        parameters: Parameters of all of them.
        base: What it names as its base.
    """

    start: int
    stop: int
    path: Path
    models: tuple[tuple[str, int], ...]
    own: Mapping[str, Scope]
    parameters: Scope
    base: str | None

    def inputs(self, method: Method) -> list[tuple[str, int]]:
        """The models that are our sources, in order."""
        listed = list(self.models)
        if method.base == "any" or self.base is None:
            return listed
        others = [entry for entry in listed if entry[0] != self.base]
        if method.base != "first":
            return others
        return [(self.base, self.base_start(listed[0][1])), *others]

    def base_start(self, default: int) -> int:
        """First layer of the base."""
        return next((start for model, start in self.models if model == self.base), default)


class PartReader:
    """Reads `models` or `slices`.

    Args:
        entries: The document.
        method: Its merge method.
        base: The document's base model.
        layers: Counts the layers of a model.
    """

    def __init__(
        self, entries: Entries, method: Method, base: str | None, layers: Callable[[str], int]
    ) -> None:
        self._entries, self._base, self._layers = entries, base, layers
        self._method = method
        self._parameters = ParameterReader(entries, method)

    def read(self, section: Mapping[str, Any], path: Path) -> list[Part]:
        """Read the section that holds one of them."""
        if (section.get("models") is None) == (section.get("slices") is None):
            self._entries.refuse(path, "give exactly one of models, slices")
        if section.get("models") is not None:
            return [self._whole(section["models"], (*path, "models"))]
        return list(self._slices(section["slices"], (*path, "slices")))

    def _whole(self, given: Any, path: Path) -> Part:
        entries = self._entries.items(given, path)
        models, own = self._models(entries, path, {"model", "parameters"})
        self._refuse_repeated(models, path)
        layers = self._layers(self._base or models[0])
        # mergekit adds a base that is not listed, though not to slices.
        listed = models if self._base in (None, *models) else [*models, self._base or ""]
        return Part(
            start=0,
            stop=layers,
            path=path,
            models=tuple((model, 0) for model in listed),
            own=own,
            parameters={},
            base=self._base,
        )

    def _slices(self, given: Any, path: Path) -> Iterator[Part]:
        bottom = 0
        for index, each in enumerate(self._entries.items(given, path)):
            part = self._slice(each, (*path, index), bottom)
            bottom = part.stop
            yield part

    def _slice(self, given: Any, path: Path, bottom: int) -> Part:
        known = {"sources", "parameters", "base_model"}
        slice_ = self._entries.keys(given, path, known)
        sources = (*path, "sources")
        entries = self._entries.items(slice_.get("sources"), sources)
        models, own = self._models(entries, sources, {"model", "layer_range", "parameters"})
        ranges = []
        for index, entry in enumerate(entries):
            place = (*sources, index, "layer_range")
            ranges.append(self._entries.layer_range(entry.get("layer_range"), place))
        heights = {stop - start for start, stop in ranges}
        if len(heights) > 1:
            found = ", ".join(str(list(ends)) for ends in ranges)
            self._entries.refuse(
                sources, f"all layer ranges of a slice must be equally long, found {found}"
            )
        self._refuse_repeated(
            [f"{m}, layers {list(ends)}" for m, ends in zip(models, ranges, strict=True)], sources
        )
        base = slice_.get("base_model")
        return Part(
            start=bottom,
            stop=bottom + heights.pop(),
            path=path,
            models=tuple((m, start) for m, (start, _) in zip(models, ranges, strict=True)),
            own=own,
            parameters=self._parameters.read(slice_, path),
            base=self._base if base is None else self._entries.model(base, (*path, "base_model")),
        )

    def _refuse_repeated(self, listed: list[str], path: Path) -> None:
        """Refuse what mergekit calls duplicate inputs: only one of them could have parameters."""
        for index, each in enumerate(listed):
            if each in listed[:index]:
                self._entries.refuse(
                    (*path, index), f"{each}: is listed twice; add up its weights in one entry"
                )

    def _models(
        self, given: list[Any], path: Path, known: set[str]
    ) -> tuple[list[str], dict[str, Scope]]:
        models: list[str] = []
        own: dict[str, Scope] = {}
        for index, each in enumerate(given):
            entry = self._entries.keys(each, (*path, index), known)
            model = self._entries.model(entry.get("model"), (*path, index, "model"))
            models.append(model)
            own.setdefault(model, self._parameters.read(entry, (*path, index), of_model=True))
        return models, own
