"""Reads mergekit YAML as a merge recipe.

What mergekit drops in silence (unknown keys, misspelled or misplaced parameters) is an error
here. Stacking layers, tokenizer surgery and modules are not read. Embeddings take the parameters
of the first slice and other tensors outside the layers those of the last, as in mergekit for the
families it knows by name; it gives those of the first to all of them in families it does not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.layout import Component
from evomerge.operators.registry import find_operator
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.mergekit.entries import NOT_READ, Entries
from evomerge.recipe.mergekit.names import (
    OPERATORS,
    RESCALE_FROM_MERGEKIT,
    TO_MERGEKIT,
)
from evomerge.recipe.yaml import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.recipe.yaml import Path

KNOWN = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"}
REQUIRED = {"weight", "t"}
"""Parameters without which mergekit does not merge, whatever our defaults are."""

IGNORED = {
    "linear": set[str](),
    "slerp": set[str](),
    "task_arithmetic": {"int8_mask", "rescale", "density"},
    "ties": {"int8_mask", "rescale"},
    "dare_linear": {"int8_mask"},
    "dare_ties": {"int8_mask"},
}
"""Parameters that do not change the result of a method; `ties` is not read if it rescales."""

Raw = Any
RawRule = dict[str, Any]
Conditions = list[tuple[str | None, Raw]]
"""What is said about a parameter: text in the tensor's name, and a value or gradient."""


def is_mergekit(document: Document) -> bool:
    """Whether a document is a mergekit recipe."""
    return isinstance(document.data, dict) and "merge_method" in document.data


def from_mergekit(document: Document, layers: int) -> MergeRecipe:
    """Turn a mergekit document into a recipe.

    Arithmetic is in float32 here whatever `dtype` says; the result is stored in `out_dtype`, else
    in `dtype`, else in the base's dtype.

    Args:
        document: The parsed YAML.
        layers: Number of layers of the models.

    Raises:
        RecipeError: Something is unknown, missing or not read.
    """
    entries = Entries(document)
    data = entries.keys(document.data, (), KNOWN | NOT_READ)
    for key in sorted(NOT_READ & set(data)):
        entries.refuse((key,), f"{key} is not read yet")
    method = data.get("merge_method")
    if method not in OPERATORS:
        known = ", ".join(OPERATORS)
        entries.refuse(("merge_method",), f"merge_method {method!r} is not read; known: {known}")
    reader = _Reader(entries, method, layers)
    stored = next((key for key in ("out_dtype", "dtype") if data.get(key)), None)
    recipe = {
        "base": reader.base(),
        "sources": reader.sources(),
        "operator": method,
        "parameters": reader.shared(),
        "dtype": data[stored] if stored else "base",
    }
    lines: dict[Path, int] = {}
    if stored and (stored,) in document.lines:
        lines[("dtype",)] = document.lines[(stored,)]
    return validate(MergeRecipe, Document(recipe, lines, document.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A slice, or the whole model.

    Attributes:
        start: First layer.
        stop: One past the last layer.
        path: Where it stands in the document.
        models: Its models, in order.
        own: Parameters of each model; the first entry's where a model is listed twice.
        parameters: Parameters of all of them.
    """

    start: int
    stop: int
    path: Path
    models: list[str]
    own: Mapping[str, Mapping[str, Raw]]
    parameters: Mapping[str, Raw]


class _Reader:
    def __init__(self, entries: Entries, method: str, layers: int) -> None:
        self._entries, self._method, self._layers = entries, method, layers
        self._data: Mapping[str, Raw] = entries.document.data
        self._parameters = list(find_operator(method).parameters.values())
        self._top = self._read_parameters(self._data, ())
        self._parts = list(self._read_parts())
        self._base = self._read_base()
        if self._method == "ties":
            self._refuse_rescaled_ties()

    def base(self) -> str:
        """The base model; the first model where the method needs none."""
        return self._base or self._parts[0].models[0]

    def sources(self) -> list[dict[str, Any]]:
        """The models with their parameters as rules."""
        chosen = self._chosen()
        labels = Counter(Source(model=model).label for model in chosen)
        return [
            {
                "model": model,
                "name": f"{i}:{model}" if labels[Source(model=model).label] > 1 else None,
                "parameters": self._of_model(model),
            }
            for i, model in enumerate(chosen)
        ]

    def shared(self) -> dict[str, Any]:
        """Parameters that are one value for all sources."""
        found = {
            parameter.name: self._setting(parameter, lambda part: (part.parameters,), "")
            for parameter in self._parameters
            if not parameter.per_source
        }
        return {name: setting for name, setting in found.items() if setting is not None}

    def _chosen(self) -> list[str]:
        models = self._parts[0].models
        others = [model for model in models if model != self._base]
        if self._method == "slerp":
            return [self.base(), *others]
        if self._method != "linear":
            return others
        # mergekit adds a base that is not listed to the models, though not to slices.
        adds = self._base is not None and self._base not in models and "models" in self._data
        return [*models, self.base()] if adds else models

    def _of_model(self, model: str) -> dict[str, Any]:
        def scopes(part: _Part) -> tuple[Mapping[str, Raw], ...]:
            return (part.own.get(model, {}), part.parameters)

        found = {
            parameter.name: self._setting(parameter, scopes, f" for {model}")
            for parameter in self._parameters
            if parameter.per_source
        }
        return {name: setting for name, setting in found.items() if setting is not None}

    def _setting(
        self,
        parameter: Parameter,
        scopes: Callable[[_Part], Iterable[Mapping[str, Raw]]],
        of: str,
    ) -> Any:
        """All that is said about a parameter: a value, rules, or None for nothing."""
        theirs = TO_MERGEKIT.get(parameter.name, parameter.name)
        said = [self._conditions(theirs, (*scopes(part), self._top)) for part in self._parts]
        if not any(said):
            if theirs in REQUIRED:
                raise RecipeError(f"{self._entries.document.name}: {theirs}: is missing{of}")
            return RESCALE_FROM_MERGEKIT[True] if theirs == "rescale" else None
        default = RESCALE_FROM_MERGEKIT[True] if theirs == "rescale" else parameter.default
        if theirs in REQUIRED:
            self._refuse_gaps(theirs, said, of)
        closed = [_closed(conditions, default) for conditions in said]
        if all(conditions == closed[0] for conditions in closed) and not _has_gradient(closed[0]):
            return _as_setting([_named(text) | {"value": value} for text, value in closed[0]])
        return _as_setting(self._rules(closed))

    def _refuse_gaps(self, theirs: str, said: Sequence[Conditions], of: str) -> None:
        # mergekit does not merge a tensor without a value; here a default or another slice's
        # value might step in.
        if len(said) == 1 and self._method != "linear":
            return
        if any(not conditions or conditions[-1][0] is not None for conditions in said):
            raise RecipeError(
                f"{self._entries.document.name}: {theirs}: may be missing for some tensors{of}; "
                "end every list of filters with an entry without a filter"
            )

    def _conditions(self, theirs: str, scopes: Iterable[Mapping[str, Raw]]) -> Conditions:
        """What is said in one part, most specific first, up to what always applies."""
        found: Conditions = []
        for scope in scopes:
            for text, value in scope.get(theirs, ()):
                found.append((text, value))
                if text is None:
                    return found
        return found

    def _rules(self, said: Sequence[Conditions]) -> list[RawRule]:
        rules: list[RawRule] = []
        for part, conditions in zip(self._parts, said, strict=True):
            for text, value in conditions:
                rules += [_named(text) | rule for rule in _in_layers(value, part)]
        first, last = (
            [_named(text) | {"value": _outside(value)} for text, value in conditions]
            for conditions in (said[0], said[-1])
        )
        embedding = {"component": Component.EMBEDDING.value}
        if first != last:
            rules += [rule | embedding for rule in first]
        return rules + last

    def _read_base(self) -> str | None:
        if self._data.get("base_model") is not None:
            return self._entries.model(self._data["base_model"], ("base_model",))
        if self._method != "linear":
            raise RecipeError(f"{self._entries.document.name}: base_model: is missing")
        return None

    def _read_parts(self) -> Iterator[_Part]:
        name = self._entries.document.name
        if ("models" in self._data) == ("slices" in self._data):
            raise RecipeError(f"{name}: give exactly one of models, slices")
        if "models" in self._data:
            yield self._read_part(self._data["models"], ("models",), (0, self._layers), {})
            return
        expected, models = 0, None
        for index, given in enumerate(self._entries.items(self._data["slices"], ("slices",))):
            path = ("slices", index)
            slice_ = self._entries.keys(given, path, {"sources", "parameters"})
            parameters = self._read_parameters(slice_, path)
            layers = self._layer_range(slice_.get("sources"), (*path, "sources"))
            if layers[0] != expected:
                self._entries.refuse(path, "stacking layers is not read yet")
            part = self._read_part(slice_["sources"], (*path, "sources"), layers, parameters)
            if models not in (None, part.models):
                self._entries.refuse(path, "every slice must list the same models in one order")
            expected, models = layers[1], part.models
            yield part
        if expected != self._layers:
            raise RecipeError(f"{name}: slices end at layer {expected} of {self._layers}")

    def _layer_range(self, sources: Raw, path: Path) -> tuple[int, int]:
        ranges = set()
        for index, entry in enumerate(self._entries.items(sources, path)):
            place = (*path, index)
            known = {"model", "layer_range", "parameters"}
            given = self._entries.keys(entry, place, known).get("layer_range")
            ranges.add(self._entries.layer_range(given, (*place, "layer_range")))
        if len(ranges) > 1:
            self._entries.refuse(path, "stacking layers is not read yet")
        return ranges.pop()

    def _read_part(
        self,
        given: Raw,
        path: Path,
        layers: tuple[int, int],
        parameters: Mapping[str, Raw],
    ) -> _Part:
        known = {"model", "parameters"} | ({"layer_range"} if path[0] == "slices" else set())
        models: list[str] = []
        own: dict[str, Mapping[str, Raw]] = {}
        for index, each in enumerate(self._entries.items(given, path)):
            entry = self._entries.keys(each, (*path, index), known)
            model = self._entries.model(entry.get("model"), (*path, index, "model"))
            models.append(model)
            own.setdefault(model, self._read_parameters(entry, (*path, index), of_model=True))
        return _Part(
            start=layers[0],
            stop=layers[1],
            path=path,
            models=models,
            own=own,
            parameters=parameters,
        )

    def _read_parameters(
        self, scope: Mapping[str, Raw], path: Path, *, of_model: bool = False
    ) -> dict[str, Conditions]:
        path = (*path, "parameters")
        names = {TO_MERGEKIT.get(p.name, p.name): p for p in self._parameters}
        given = self._entries.keys(
            scope.get("parameters"), path, names.keys() | IGNORED[self._method]
        )
        for theirs in given if of_model else ():
            if theirs in names and not names[theirs].per_source:
                self._entries.refuse(
                    (*path, theirs),
                    f"{theirs}: is one value for all models, so mergekit would ignore it here; "
                    "move it to the parameters of the recipe or of the slice",
                )
        return {
            theirs: self._read_conditions(value, theirs, (*path, theirs))
            for theirs, value in given.items()
        }

    def _read_conditions(self, given: Raw, theirs: str, path: Path) -> Conditions:
        if isinstance(given, dict):
            given = [given]
        if not isinstance(given, list) or not any(isinstance(each, dict) for each in given):
            # mergekit asks the next scope where it finds an empty list.
            return [(None, self._read_value(given, theirs, path))] if given != [] else []
        found: Conditions = []
        for index, each in enumerate(given):
            entry = self._entries.keys(each, (*path, index), {"filter", "value"})
            text = entry.get("filter")
            if text is not None and not isinstance(text, str):
                self._entries.refuse((*path, index), f"filter: expected text, found {text!r}")
            value = self._read_value(entry.get("value"), theirs, (*path, index))
            found.append((None if text in ("*", "") else text, value))
        return found

    def _read_value(self, given: Raw, theirs: str, path: Path) -> Raw:
        points = given if isinstance(given, list) else [given]
        kinds = {type(point) for point in points}
        if not (kinds == {bool} or (kinds and kinds <= {int, float})):
            self._entries.refuse(
                path,
                f"{theirs}: expected a number, true, false or a list of them, found {given!r}",
            )
        if theirs != "rescale" or self._method in ("ties", "task_arithmetic"):
            return given
        if kinds != {bool}:
            self._entries.refuse(path, f"{theirs}: expected true or false, found {given!r}")
        words = [RESCALE_FROM_MERGEKIT[point] for point in points]
        return words if isinstance(given, list) else words[0]

    def _refuse_rescaled_ties(self) -> None:
        for scope in (self._top, *(part.parameters for part in self._parts)):
            for _, value in scope.get("rescale", ()):
                if value is not False:
                    raise RecipeError(
                        f"{self._entries.document.name}: rescale: ties with rescale is not read"
                    )


def _closed(conditions: Conditions, default: Raw) -> Conditions:
    """Conditions that always end in a value, where there is a default."""
    ends = conditions and conditions[-1][0] is None
    return conditions if ends or default is None else [*conditions, (None, default)]


def _has_gradient(conditions: Conditions) -> bool:
    return any(isinstance(value, list) for _, value in conditions)


def _named(text: str | None) -> RawRule:
    return {} if text is None else {"tensor": text}


def _outside(value: Raw) -> Raw:
    return value[0] if isinstance(value, list) else value


def _as_setting(rules: list[RawRule]) -> Any:
    return rules[0]["value"] if rules[0].keys() == {"value"} else rules


def _in_layers(value: Raw, part: _Part) -> Iterator[RawRule]:
    """A value or a gradient as rules for the layers of a part."""
    if not isinstance(value, list):
        yield {"value": value, "layers": [part.start, part.stop]}
        return
    count = part.stop - part.start
    for layer in range(count):
        # mergekit puts the only layer of a slice at the end of its gradient.
        t = layer / (count - 1) if count > 1 else 1.0
        number = part.start + layer
        yield {"value": _point(value, t), "layers": [number, number + 1]}


def _point(points: Sequence[Raw], t: float) -> Raw:
    place = t * (len(points) - 1)
    left = int(place)
    if isinstance(points[left], (bool, str)):
        return points[left]
    right = min(len(points) - 1, left + 1)
    share = place - left
    return (1 - share) * points[left] + share * points[right]
