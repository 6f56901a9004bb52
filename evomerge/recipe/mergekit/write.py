"""Writes a merge recipe as mergekit YAML that rebuilds the same tensors.

mergekit addresses tensors by layer range and by text in their names; the first entry that matches
counts. Tensors outside the layers take the parameters of the first or of the last slice, depending
on the architecture, so both say the same about them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.layout import locate
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import MergeRecipe, Source, Value
from evomerge.recipe.mergekit.names import OPERATORS, RESCALE_TO_MERGEKIT, TO_MERGEKIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evomerge.operators.parameters import Parameter
    from evomerge.operators.registry import Operator

Table = dict[str, Value]
"""A parameter's value for each tensor, by the tensor's name or by its part after the layer."""


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
    writer = _Writer(recipe, operator, sorted(tensors))
    problem = next(_obstacles(recipe, operator, writer), None)
    if problem:
        raise RecipeError(problem)
    document: dict[str, Any] = {"merge_method": recipe.operator, "base_model": _base(recipe)}
    document |= writer.inputs()
    arithmetic = "float64" if dtype == "float64" else "float32"
    document |= {"dtype": arithmetic, "out_dtype": dtype}
    return MergekitRecipe(document=document, notes=tuple(_notes(recipe, writer)))


def _obstacles(recipe: MergeRecipe, operator: Operator, writer: _Writer) -> Iterator[str]:
    if recipe.operator not in OPERATORS:
        yield f"mergekit has no operator {recipe.operator}"
    for source in recipe.sources:
        if source.model is None:
            yield f"mergekit cannot merge a candidate ({source.label}); export it first"
    repeated, times = Counter(source.model for source in recipe.sources).most_common(1)[0]
    if times > 1:
        yield f"mergekit gives every entry of {repeated} the parameters of the first"
    # With an elected sign the base takes no part, for its task vector is zero; a plain sum counts
    # its weight here, while mergekit leaves it out.
    base_counts = any(source.model == recipe.base for source in recipe.sources)
    if base_counts and recipe.operator in ("task_arithmetic", "dare_linear"):
        normalize = operator.parameters["normalize"]
        if any(writer.values(normalize, None, writer.names).values()):
            yield "mergekit does not count the base's weight when it normalizes"


def _notes(recipe: MergeRecipe, writer: _Writer) -> Iterator[str]:
    if _base(recipe) != recipe.base:
        yield f"mergekit takes config and tokenizer from {_base(recipe)}"
    if not recipe.operator.startswith("dare"):
        return
    parameters = check_operator(recipe).parameters
    rescale = writer.recipe_values(parameters["rescale"], None)
    thinned = [
        name
        for source in recipe.sources
        for name, density in writer.recipe_values(parameters["density"], source).items()
        if float(density) < 1
    ]
    if thinned:
        yield "mergekit draws other random masks: the same method, but not the same bytes"
    if any(rescale[name] == "density" for name in thinned):
        yield "mergekit restores the L1 norm where this recipe divides by the density"


def _base(recipe: MergeRecipe) -> str:
    return (recipe.sources[0].model or "") if recipe.operator == "slerp" else recipe.base


class _Writer:
    def __init__(self, recipe: MergeRecipe, operator: Operator, tensors: Sequence[str]) -> None:
        self.names = tensors
        self._places = {name: locate(name) for name in tensors}
        self._recipe = recipe
        parameters = list(operator.parameters.values())
        self._per_source = [p for p in parameters if p.per_source]
        self._shared = [p for p in parameters if not p.per_source]
        self._loose = [name for name in tensors if self._places[name].layer is None]
        self._layers: dict[int, dict[str, str]] = {}
        for name in tensors:
            layer = self._places[name].layer
            if layer is not None:
                part = f".{name}".split(f".{layer}.", 1)[1]
                self._layers.setdefault(layer, {})[name] = part

    def inputs(self) -> dict[str, Any]:
        """The keys that say what is merged and with which parameters."""
        runs = self._runs()
        if len(runs) > 1:
            return {"slices": [self._slice(run, runs) for run in runs]}
        models = [self._input(each, runs[0], runs) for each in self._inputs()]
        shared = self._parameters(self._shared, None, runs[0], runs)
        return {"models": models, "parameters": shared} if shared else {"models": models}

    def recipe_values(self, parameter: Parameter, source: Source | None) -> Table:
        """A parameter's value for every tensor, in the recipe's words."""
        return {name: self._value(parameter, source, name) for name in self.names}

    def values(self, parameter: Parameter, source: Source | None, names: Iterable[str]) -> Table:
        """A parameter's value for some tensors, in mergekit's words."""
        found = {name: self._value(parameter, source, name) for name in names}
        if parameter.name == "rescale":
            return {name: RESCALE_TO_MERGEKIT[str(value)] for name, value in found.items()}
        return found

    def _value(self, parameter: Parameter, source: Source | None, name: str) -> Value:
        found = self._recipe.setting(parameter.name, name, self._places[name], source)
        value: Value | None = parameter.default if found is None else found
        if value is None:
            of = f" of source {source.label}" if source else ""
            raise RecipeError(
                f"parameters.{parameter.name}{of}: no rule gives a value for tensor {name}; "
                "end the list with a rule that has only a value"
            )
        return value

    def _inputs(self) -> list[Source | None]:
        """The models to list; None stands for the base when it is no source."""
        listed: list[Source | None] = list(self._recipe.sources)
        models = [source.model for source in self._recipe.sources]
        # A linear merge needs no base, but without one mergekit takes config and tokenizer from a
        # random model; the other methods want their base listed in every slice.
        return listed if _base(self._recipe) in models else [*listed, None]

    def _slice(self, run: range, runs: Sequence[range]) -> dict[str, Any]:
        entries = (self._input(each, run, runs) for each in self._inputs())
        layers = {"layer_range": [run.start, run.stop]}
        written: dict[str, Any] = {"sources": [entry | layers for entry in entries]}
        shared = self._parameters(self._shared, None, run, runs)
        return written | ({"parameters": shared} if shared else {})

    def _input(self, source: Source | None, run: range, runs: Sequence[range]) -> dict[str, Any]:
        if source is None:
            no_share = {"parameters": {"weight": 0.0}} if self._recipe.operator == "linear" else {}
            return {"model": _base(self._recipe), **no_share}
        parameters = self._parameters(self._per_source, source, run, runs)
        return {"model": source.model, **({"parameters": parameters} if parameters else {})}

    def _parameters(
        self,
        parameters: Sequence[Parameter],
        source: Source | None,
        run: range,
        runs: Sequence[range],
    ) -> dict[str, Any]:
        # Only the first and the last slice speak for the tensors outside the layers.
        loose = self._loose if run in (runs[0], runs[-1]) else []
        names = [*loose, *(name for layer in run for name in self._layers[layer])]
        short = {name: part for layer in run for name, part in self._layers[layer].items()}
        return {
            TO_MERGEKIT.get(each.name, each.name): _entries(
                self.values(each, source, names), short, each.name
            )
            for each in parameters
        }

    def _runs(self) -> list[range]:
        """Runs of neighbouring layers in which every parameter has the same values."""
        scopes = [
            (parameter, source)
            for parameter in (*self._per_source, *self._shared)
            for source in (self._recipe.sources if parameter.per_source else (None,))
        ]

        def signature(layer: int) -> list[Table]:
            parts = self._layers[layer]
            return [
                {parts[name]: value for name, value in self.values(*scope, parts).items()}
                for scope in scopes
            ]

        runs = []
        for _, group in groupby(sorted(self._layers), key=signature):
            layers = list(group)
            runs.append(range(layers[0], layers[-1] + 1))
        return runs or [range(0)]


def _entries(values: Table, short: Mapping[str, str], parameter: str) -> Any:
    """A parameter's values as mergekit writes them: one value, or a list with filters.

    Args:
        values: The value of each tensor.
        short: The part of a tensor's name after its layer.
        parameter: The parameter's name, for messages.

    Raises:
        RecipeError: Two tensors cannot be told apart by text in their names.
    """
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    # What most tensors have comes last, without a filter.
    rest = Counter(values.values()).most_common(1)[0][0]
    loose = {name: value for name, value in values.items() if name not in short}
    inside = {short[name]: value for name, value in values.items() if name in short}
    entries = _filters(loose | _modules(inside), rest)
    if _wrong(entries, values):
        # The shortest texts will not do. A filter for each tensor will, when a name that contains
        # another comes before it.
        every = loose | inside
        entries = _filters({n: every[n] for n in sorted(every, key=len, reverse=True)}, None)
        entries.append({"value": rest})
        for entry in [entry for entry in entries[:-1] if entry["value"] == rest]:
            fewer = [other for other in entries if other is not entry]
            entries = entries if _wrong(fewer, values) else fewer
    wrong = _wrong(entries, values)
    if wrong:
        raise RecipeError(
            f"mergekit cannot tell {wrong[0]} from others by text in its name; "
            f"{parameter} cannot be expressed"
        )
    return entries


def _modules(values: Table) -> Table:
    """The values of a layer's modules, and of single tensors where a module has several."""
    found: Table = {}
    for module, group in groupby(values.items(), key=lambda item: item[0].partition(".")[0]):
        members = dict(group)
        alike = len(members) > 1 and len(set(members.values())) == 1
        found |= {module: next(iter(members.values()))} if alike else members
    return found


def _filters(values: Table, rest: Value | None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"filter": text, "value": value} for text, value in values.items() if value != rest
    ]
    return entries if rest is None else [*entries, {"value": rest}]


def _wrong(entries: Sequence[Mapping[str, Any]], values: Table) -> list[str]:
    """The tensors whose first matching entry gives another value."""
    return [
        name
        for name, value in values.items()
        if next(e["value"] for e in entries if e.get("filter", "") in name) != value
    ]
