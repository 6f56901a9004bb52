"""Writes a merge recipe as mergekit YAML that rebuilds the same tensors.

mergekit addresses tensors by layer range and by text in their names; the first entry that matches
counts. Tensors outside the layers take the parameters of the first or of the last slice, depending
on the architecture, so both say the same about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.recipe.check import check_operator
from evomerge.recipe.layout import locate
from evomerge.recipe.merge import MergeRecipe, Source, Value
from evomerge.recipe.mergekit.names import OPERATORS, RESCALE_TO_MERGEKIT, TO_MERGEKIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from evomerge.operators.parameters import Parameter

Table = tuple[tuple[str, Value], ...]
"""A parameter's value for each tensor of a layer, by the part of the name after the layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergekitRecipe:
    """A recipe in mergekit's terms.

    Attributes:
        document: The YAML document.
        notes: Why mergekit's result differs, if it does; empty when it is the same.
    """

    document: dict[str, Any]
    notes: tuple[str, ...]


def to_mergekit(recipe: MergeRecipe, tensors: Iterable[str], dtype: str) -> MergekitRecipe:
    """Express a recipe in mergekit's terms.

    Args:
        recipe: The recipe.
        tensors: Names of the base model's tensors.
        dtype: What the merged model is stored in.

    Raises:
        RecipeError: mergekit has no way to say this.
    """
    operator = check_operator(recipe)
    if recipe.operator not in OPERATORS:
        raise RecipeError(f"mergekit has no operator {recipe.operator}")
    nested = [source.label for source in recipe.sources if source.model is None]
    if nested:
        raise RecipeError(f"mergekit cannot merge a candidate ({nested[0]}); export it first")
    writer = _Writer(recipe, sorted(tensors))
    parameters = [p for p in operator.parameters.values() if p.name != "rescale"]
    document: dict[str, Any] = {"merge_method": recipe.operator}
    document |= writer.inputs([p for p in parameters if p.per_source], parameters)
    document |= {"dtype": "float32", "out_dtype": dtype}
    return MergekitRecipe(document=document, notes=tuple(_notes(recipe)))


def _notes(recipe: MergeRecipe) -> Iterable[str]:
    if recipe.operator.startswith("dare"):
        yield "mergekit draws other random masks: the same method, but not the same bytes"
        if recipe.parameters.get("rescale", "density") == "density":
            yield "mergekit restores the L1 norm where this recipe divides by the density"


class _Writer:
    def __init__(self, recipe: MergeRecipe, tensors: Sequence[str]) -> None:
        self._recipe = recipe
        self._loose = [name for name in tensors if locate(name).layer is None]
        self._layers: dict[int, dict[str, str]] = {}
        for name in tensors:
            layer = locate(name).layer
            if layer is not None:
                part = name.split(f".{layer}.", 1)[1]
                self._layers.setdefault(layer, {})[part] = name

    def inputs(self, per_source: Sequence[Parameter], all_: Sequence[Parameter]) -> dict[str, Any]:
        """The keys that say what is merged and with which parameters."""
        shared = [p for p in all_ if not p.per_source]
        runs = self._runs(all_)
        document: dict[str, Any] = {"base_model": self._base()}
        if len(runs) == 1:
            document["models"] = [
                self._input(each, per_source, runs[0]) for each in self._inputs()
            ]
            document["parameters"] = self._parameters(shared, None, runs[0])
        else:
            document["slices"] = [self._slice(run, per_source, shared) for run in runs]
        if self._recipe.operator.startswith("dare"):
            rescale = str(self._recipe.parameters.get("rescale", "density"))
            document.setdefault("parameters", {})["rescale"] = RESCALE_TO_MERGEKIT[rescale]
        return document

    def _base(self) -> str:
        if self._recipe.operator == "slerp":
            return self._recipe.sources[0].model or ""
        return self._recipe.base

    def _inputs(self) -> list[Source | None]:
        """The models to list; None stands for the base when it is no source."""
        listed: list[Source | None] = list(self._recipe.sources)
        models = [source.model for source in self._recipe.sources]
        # A linear merge needs no base, but without one mergekit takes config and tokenizer from a
        # random model; the other methods want their base listed in every slice.
        return listed if self._base() in models else [*listed, None]

    def _slice(
        self, run: range, per_source: Sequence[Parameter], shared: Sequence[Parameter]
    ) -> dict[str, Any]:
        sources = []
        for each in self._inputs():
            entry = self._input(each, per_source, run)
            entry["layer_range"] = [run.start, run.stop]
            sources.append(entry)
        return {"sources": sources, "parameters": self._parameters(shared, None, run)}

    def _input(
        self, source: Source | None, parameters: Sequence[Parameter], run: range
    ) -> dict[str, Any]:
        if source is None:
            no_share = {"parameters": {"weight": 0.0}} if self._recipe.operator == "linear" else {}
            return {"model": self._base(), **no_share}
        return {"model": source.model, "parameters": self._parameters(parameters, source, run)}

    def _parameters(
        self, parameters: Sequence[Parameter], source: Source | None, run: range
    ) -> dict[str, Any]:
        return {
            TO_MERGEKIT.get(each.name, each.name): self._entries(each, source, run)
            for each in parameters
        }

    def _entries(self, parameter: Parameter, source: Source | None, run: range) -> Any:
        """One parameter's value in a run of layers: a value, or a list with filters."""
        value = self._valuer(parameter, source)
        loose = {name: value(name) for name in self._loose}
        inside = dict(self._table(parameter, source, run.start)) if run else {}
        everything = [*inside.values(), *loose.values()]
        if len(set(everything)) == 1:
            return everything[0]
        # What most tensors have comes last, without a filter.
        rest = max(everything, key=everything.count)
        entries = [
            {"filter": name, "value": of_name}
            for name, of_name in loose.items()
            if of_name != rest
        ]
        entries += _filters(inside, rest)
        entries.append({"value": rest})
        for name, wanted in (*inside.items(), *loose.items()):
            if _first_match(entries, name) != wanted:
                raise RecipeError(
                    f"mergekit cannot tell {name} from others by text in its name; "
                    f"{parameter.name} cannot be expressed"
                )
        return entries

    def _runs(self, parameters: Sequence[Parameter]) -> list[range]:
        """Runs of neighbouring layers in which every parameter has the same values."""

        def signature(layer: int) -> list[Table]:
            return [
                self._table(parameter, source, layer)
                for parameter in parameters
                for source in (self._recipe.sources if parameter.per_source else (None,))
            ]

        runs = []
        for _, group in groupby(sorted(self._layers), key=signature):
            layers = list(group)
            runs.append(range(layers[0], layers[-1] + 1))
        return runs or [range(0)]

    def _table(self, parameter: Parameter, source: Source | None, layer: int) -> Table:
        value = self._valuer(parameter, source)
        return tuple((part, value(name)) for part, name in self._layers[layer].items())

    def _valuer(self, parameter: Parameter, source: Source | None) -> Callable[[str], Any]:
        def value(name: str) -> Any:
            found = self._recipe.setting(parameter.name, name, locate(name), source)
            return parameter.default if found is None else found

        return value


def _filters(values: Mapping[str, Value], rest: Value) -> list[dict[str, Any]]:
    """Filters for a layer's tensors whose value is not `rest`; by module where one will do."""
    entries: list[dict[str, Any]] = []
    for module, group in groupby(values.items(), key=lambda item: item[0].partition(".")[0]):
        members = dict(group)
        if len(set(members.values())) == 1:
            members = {module: next(iter(members.values()))}
        entries += [{"filter": n, "value": v} for n, v in members.items() if v != rest]
    return entries


def _first_match(entries: Sequence[Mapping[str, Any]], name: str) -> Value:
    return next(e["value"] for e in entries if e.get("filter", "") in name)  # type: ignore[no-any-return]
