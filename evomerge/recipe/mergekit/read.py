"""Reads mergekit YAML as a merge recipe.

What mergekit drops in silence (unknown keys, misspelled parameters) is an error here. Stacking
layers, tokenizer surgery and modules are not read.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.operators.registry import find_operator
from evomerge.recipe.layout import Component
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.names import FROM_MERGEKIT, OPERATORS, RESCALE_FROM_MERGEKIT
from evomerge.recipe.yaml import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KNOWN = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"}
NOT_READ = {"tokenizer", "tokenizer_source", "chat_template", "modules"}
IGNORED = {"int8_mask"}
"""Parameters that change mergekit's use of memory, not its result."""

RawRule = dict[str, Any]


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
    data = document.data
    _refuse_unknown(data, KNOWN, document, ())
    method = data["merge_method"]
    if method not in OPERATORS:
        raise RecipeError(
            f"{document.at(('merge_method',))}: {method!r} is not read; "
            f"known: {', '.join(OPERATORS)}"
        )
    reader = _Reader(document, method, layers)
    recipe = {
        "base": reader.base(),
        "sources": reader.sources(),
        "operator": method,
        "parameters": reader.shared(),
        "dtype": data.get("out_dtype") or data.get("dtype") or "base",
    }
    return validate(MergeRecipe, Document(recipe, {}, document.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A slice, or the whole model.

    Attributes:
        start: First layer.
        stop: One past the last layer.
        path: Where it stands in the document.
        entries: Its model entries.
        parameters: Its own parameters.
    """

    start: int
    stop: int
    path: tuple[str | int, ...]
    entries: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]


class _Reader:
    def __init__(self, document: Document, method: str, layers: int) -> None:
        self._document, self._method, self._layers = document, method, layers
        self._data: Mapping[str, Any] = document.data
        self._operator = find_operator(method)
        self._parts = list(self._read_parts())
        self._models = self._common_models()

    def base(self) -> str:
        """The base model; the first model where the method needs none."""
        base = self._data.get("base_model")
        if base is None and self._method != "linear":
            raise RecipeError(f"{self._document.name}: base_model: is missing")
        return str(base or self._models[0])

    def sources(self) -> list[dict[str, Any]]:
        """The models with their parameters as rules."""
        names = [p.name for p in self._operator.parameters.values() if p.per_source]
        return [
            {
                "model": model,
                "name": f"{index}:{model}" if self._models.count(model) > 1 else None,
                "parameters": self._of_model(model, names),
            }
            for index, model in enumerate(self._chosen())
        ]

    def shared(self) -> dict[str, Any]:
        """Parameters that are one value for all sources."""
        names = [p.name for p in self._operator.parameters.values() if not p.per_source]
        found: dict[str, Any] = {
            name: self._rules(name, lambda part: (part.parameters,)) for name in names
        }
        if self._method.startswith("dare"):
            value = self._data.get("parameters", {}).get("rescale", True)
            found["rescale"] = RESCALE_FROM_MERGEKIT[bool(value)]
        return {name: rules for name, rules in found.items() if rules}

    def _chosen(self) -> list[str]:
        base = self._data.get("base_model")
        if self._method == "slerp":
            others = [model for model in self._models if model != base]
            return [str(base), *others]
        if self._method == "linear":
            return self._models
        return [model for model in self._models if model != base]

    def _of_model(self, model: str, names: Iterable[str]) -> dict[str, Any]:
        def scopes(part: _Part) -> tuple[Mapping[str, Any], ...]:
            entry = next((e for e in part.entries if e["model"] == model), {})
            return (entry.get("parameters") or {}, part.parameters)

        found = {name: self._rules(name, scopes) for name in names}
        return {name: rules for name, rules in found.items() if rules}

    def _rules(self, name: str, scopes: Any) -> list[RawRule]:
        """All that is said about a parameter, most specific first."""
        theirs = next((t for t, ours in FROM_MERGEKIT.items() if ours == name), name)
        if name == "rescale":
            return []
        rules: list[RawRule] = []
        top = self._data.get("parameters") or {}
        for part in self._parts:
            for scope in (*scopes(part), top):
                if scope.get(theirs) is not None:
                    rules += self._expand(scope[theirs], part)
        return rules

    def _expand(self, value: Any, part: _Part) -> list[RawRule]:
        """A value, a gradient or a list with filters, as rules of a part of the model."""
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rules: list[RawRule] = []
            for entry in value:
                _refuse_unknown(entry, {"filter", "value"}, self._document, part.path)
                text = entry.get("filter")
                named = {} if text in (None, "*") else {"tensor": text}
                rules += [named | rule for rule in self._expand(entry["value"], part)]
            return rules
        if isinstance(value, list):
            return self._gradient(value, part)
        return self._everywhere(value, value, part)

    def _gradient(self, points: Sequence[float], part: _Part) -> list[RawRule]:
        count = part.stop - part.start
        rules = []
        for layer in range(count):
            # mergekit puts the only layer of a slice at the end of its gradient.
            place = (layer / (count - 1) if count > 1 else 1.0) * (len(points) - 1)
            left = int(place)
            right = min(len(points) - 1, left + 1)
            value = (1 - (place - left)) * points[left] + (place - left) * points[right]
            number = part.start + layer
            rules.append({"value": value, "layers": [number, number + 1]})
        return rules + self._everywhere(None, points[0], part)

    def _everywhere(self, inside: Any, outside: Any, part: _Part) -> list[RawRule]:
        """Rules for a part's layers and for the tensors outside the layers that go with it."""
        rules: list[RawRule] = []
        if inside is not None:
            rules.append({"value": inside, "layers": [part.start, part.stop]})
        if part.start == 0:
            rules.append({"value": outside, "component": Component.EMBEDDING.value})
        if part.stop == self._layers:
            loose = {"value": outside}
            rules += [loose | {"component": c.value} for c in (Component.NORM, Component.HEAD)]
        return rules

    def _read_parts(self) -> Iterable[_Part]:
        name = self._document.name
        if ("models" in self._data) == ("slices" in self._data):
            raise RecipeError(f"{name}: give exactly one of models, slices")
        if "models" in self._data:
            entries = self._entries(self._data["models"], ("models",), {"model", "parameters"})
            yield _Part(
                start=0, stop=self._layers, path=("models",), entries=entries, parameters={}
            )
            return
        expected = 0
        for index, part in enumerate(self._data["slices"]):
            path = ("slices", index)
            _refuse_unknown(part, {"sources", "parameters"}, self._document, path)
            known = {"model", "layer_range", "parameters"}
            entries = self._entries(part["sources"], (*path, "sources"), known)
            ranges = {tuple(entry["layer_range"]) for entry in entries}
            if len(ranges) != 1 or next(iter(ranges))[0] != expected:
                raise RecipeError(f"{self._document.at(path)}: stacking layers is not read yet")
            start, stop = next(iter(ranges))
            expected = stop
            parameters = part.get("parameters") or {}
            yield _Part(start=start, stop=stop, path=path, entries=entries, parameters=parameters)
        if expected != self._layers:
            raise RecipeError(f"{name}: slices end at layer {expected} of {self._layers}")

    def _entries(
        self,
        entries: Any,
        path: tuple[str | int, ...],
        known: set[str],
    ) -> list[Mapping[str, Any]]:
        for index, entry in enumerate(entries):
            _refuse_unknown(entry, known, self._document, (*path, index))
            self._check_parameters(entry.get("parameters") or {}, (*path, index, "parameters"))
        self._check_parameters(self._data.get("parameters") or {}, ("parameters",))
        return list(entries)

    def _check_parameters(self, given: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        ours = [*self._operator.parameters, *IGNORED]
        known = {next((t for t, o in FROM_MERGEKIT.items() if o == name), name) for name in ours}
        # mergekit accepts a density everywhere in this family, and ignores it here.
        allowed = known | ({"density"} if self._method == "task_arithmetic" else set())
        _refuse_unknown(given, allowed, self._document, path)

    def _common_models(self) -> list[str]:
        listed = [[str(entry["model"]) for entry in part.entries] for part in self._parts]
        if any(each != listed[0] for each in listed):
            raise RecipeError(f"{self._document.name}: every slice must list the same models")
        return listed[0]


def _refuse_unknown(
    given: Any,
    known: set[str],
    document: Document,
    path: tuple[str | int, ...],
) -> None:
    if not isinstance(given, dict):
        raise RecipeError(f"{document.at(path)}: expected keys and values")
    for key in given:
        if key in NOT_READ:
            raise RecipeError(f"{document.at((*path, key))}: {key} is not read yet")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise RecipeError(
                f"{document.at((*path, key))}: {key}: unknown key, which mergekit would ignore; "
                f"{hint}"
            )
