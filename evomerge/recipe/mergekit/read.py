"""Reads mergekit YAML as a merge recipe.

What mergekit drops in silence (unknown keys, misspelled or misplaced parameters) is an error here,
unless mergekit's bytes are asked for. Embeddings take the parameters of the first slice and other
tensors outside the layers those of the last, as in mergekit for the families it knows by name; it
gives those of the first to all of them in families it does not. A number that YAML 1.1 takes for
text, such as 1e-5, is a number here, also in gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.operators.registry import find_operator
from evomerge.recipe.lineage import MAX_DEPTH
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.entries import Entries
from evomerge.recipe.mergekit.inputs import Inputs
from evomerge.recipe.mergekit.names import METHODS, Method
from evomerge.recipe.mergekit.parameters import ParameterReader
from evomerge.recipe.mergekit.parts import Part, PartReader
from evomerge.recipe.mergekit.settings import Settings
from evomerge.recipe.mergekit.stages import NAME
from evomerge.recipe.mergekit.vocabulary import read_vocabulary
from evomerge.recipe.yaml import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evomerge.recipe.mergekit.parameters import Scope
    from evomerge.recipe.yaml import Path

KNOWN = {
    *("name", "merge_method", "base_model", "models", "slices", "modules", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MergekitReading:
    """A recipe, and what its user should know.

    Attributes:
        recipe: The recipe.
        notes: Where mergekit leaves a choice to chance, or was followed where it is unsafe.
    """

    recipe: MergeRecipe
    notes: tuple[str, ...]


def is_mergekit(document: Document) -> bool:
    """Whether a document is a mergekit recipe."""
    return isinstance(document.data, dict) and "merge_method" in document.data


def from_mergekit(
    documents: Sequence[Document],
    layers: Callable[[str], int],
    *,
    compat: bool = False,
    seed: int = 0,
) -> MergekitReading:
    """Turn a mergekit file into a recipe.

    In a file of several documents, those with a name may be models of others; the one without a
    name, else the last, is the result.

    Arithmetic is in float32 here whatever `dtype` says; the result is stored in `out_dtype`, else
    in `dtype`, else in the base's dtype.

    Args:
        documents: The parsed YAML.
        layers: Counts the layers of a model.
        compat: Make a recipe that gives mergekit's bytes, and follow mergekit where it is unsafe.
        seed: Seeds stochastic methods.

    Raises:
        RecipeError: Something is unknown, missing or not read.
    """
    return _File(documents, layers, compat=compat, seed=seed).read()


class _File:
    def __init__(
        self,
        documents: Sequence[Document],
        layers: Callable[[str], int],
        *,
        compat: bool,
        seed: int,
    ) -> None:
        self._documents = [Entries.of(document, lenient=compat) for document in documents]
        self._layers, self._compat, self._seed = layers, compat, seed
        self._stages: dict[str, MergeRecipe | None] = {}
        self._named: dict[str, Entries] = {}
        for entries in self._documents:
            data = entries.document.data
            name = data.get("name") if isinstance(data, dict) else None
            if name is None:
                continue
            if not isinstance(name, str) or name in self._named:
                entries.refuse(("name",), f"name: expected a word of its own, found {name!r}")
            self._named[name] = entries

    def read(self) -> MergekitReading:
        unnamed = [e for e in self._documents if e not in self._named.values()]
        if len(unnamed) > 1:
            unnamed[1].refuse((), "is the second document without a name; give it one")
        last = (unnamed or self._documents)[-1]
        own = last.document.data.get("name") if isinstance(last.document.data, dict) else None
        recipe = self._stage(own) if own is not None else self._read(last)
        notes = [note for entries in self._documents for note in entries.notes]
        return MergekitReading(recipe=recipe, notes=tuple(notes))

    def _stage(self, name: str) -> MergeRecipe:
        if name not in self._stages:
            self._stages[name] = None
            if list(self._stages.values()).count(None) > MAX_DEPTH:
                self._named[name].refuse(
                    ("name",),
                    f"{name}: is needed by more than {MAX_DEPTH} documents one after the other; "
                    "merge the first ones by themselves and name their folders",
                )
            self._stages[name] = self._read(self._named[name])
        stage = self._stages[name]
        if stage is None:
            self._named[name].refuse(("name",), f"{name}: is merged from itself")
        return stage

    def _read(self, entries: Entries) -> MergeRecipe:
        reader = _Reader(
            entries,
            layers=self._count_layers,
            stage=lambda name: self._stage(name) if name in self._named else None,
            compat=self._compat,
        )
        document = reader.document()
        if self._compat:
            document |= reader.compat()
        if self._seed:
            document["seed"] = self._seed
        if self._compat and find_operator(document["operator"]).stochastic and reader.repeats:
            entries.notes.append(
                f"{entries.document.name}: slices repeat a layer, and mergekit draws random masks "
                "for it in an order that is not followed here: the method is the same, the bytes "
                "are not"
            )
        return validate(MergeRecipe, Document(document, reader.lines(), entries.document.name))

    def _count_layers(self, model: str) -> int:
        if model not in self._named:
            return self._layers(model)
        stage = self._stage(model)
        if stage.stack is not None:
            return sum(slab.height for slab in stage.stack)
        return self._layers(stage.base)


class _Reader:
    """Reads one document."""

    def __init__(
        self,
        entries: Entries,
        *,
        layers: Callable[[str], int],
        stage: Callable[[str], MergeRecipe | None],
        compat: bool,
    ) -> None:
        self._entries, self._layers, self._stage = entries, layers, stage
        self._compat = compat
        self._data: Mapping[str, Any] = entries.keys(entries.document.data, (), KNOWN)
        method = self._data.get("merge_method")
        if not isinstance(method, str) or method not in METHODS:
            known = ", ".join(METHODS)
            entries.refuse(
                ("merge_method",), f"merge_method {method!r} is not read; known: {known}"
            )
        self._method: Method = METHODS[method]
        base = self._data.get("base_model")
        self._base = None if base is None else entries.model(base, ("base_model",))
        if self._base is None and self._method.base in ("origin", "first"):
            entries.refuse((), "base_model: is missing")
        self._scopes, self._parts = self._read_sections()
        self._donor = self._choose_donor()
        self._inputs = Inputs(entries, self._method, self._parts, self._base, layers(self._donor))

    def document(self) -> dict[str, Any]:
        """The recipe's keys and values."""
        settings = Settings(self._entries, self._method, self._parts, self._scopes, self._inputs)
        stage = self._stage(self._donor)
        stored = next((key for key in ("out_dtype", "dtype") if self._data.get(key)), None)
        recipe: dict[str, Any] = {
            "base": self._donor if stage is None else stage.base,
            "sources": [
                self._model(model, name) | {"parameters": settings.of_source(index)}
                for index, (model, name) in enumerate(self._inputs.named())
            ],
            "operator": settings.operator,
            "parameters": settings.shared(self._base is not None),
            "dtype": self._data[stored] if stored else "base",
        }
        measured = self._base is not None and self._method.base in ("origin", "maybe")
        if stage is not None and not self._compat and not measured and _keeps_layers(stage):
            # It would only be written twice, and all in it.
            recipe["dtype"] = self._data[stored] if stored else _dtype(stage)
        elif stage is not None:
            recipe["base_recipe"] = stage
        if not self._inputs.are_whole:
            recipe["stack"] = self._inputs.slabs()
        return recipe | read_vocabulary(self._entries, self._data)

    @property
    def repeats(self) -> bool:
        """Whether slices take a layer of a model more than once."""
        taken = [
            (model, start + layer)
            for part in self._parts
            for model, start in dict(part.models).items()
            for layer in range(part.stop - part.start)
        ]
        return len(taken) > len(set(taken))

    def compat(self) -> dict[str, Any]:
        """What a recipe for mergekit's bytes has besides."""
        given = self._data.get("dtype")
        return {
            "mergekit_compat": {"dtype": given} if given else {},
            "dtype": self._data.get("out_dtype") or "base",
        }

    def lines(self) -> dict[Path, int]:
        """Where some keys of the recipe stand in the document."""
        lines = self._entries.document.lines
        places = {("dtype",): ("dtype",), ("chat_template",): ("chat_template",)}
        if self._data.get("out_dtype"):
            places["dtype",] = ("out_dtype",)
        places["tokenizer",] = (
            ("tokenizer",) if "tokenizer" in self._data else ("tokenizer_source",)
        )
        return {ours: lines[theirs] for ours, theirs in places.items() if theirs in lines}

    def _read_sections(self) -> tuple[list[Scope], list[Part]]:
        parameters = ParameterReader(self._entries, self._method)
        scopes = [parameters.read(self._data, ())]
        section = self._data
        path: Path = ()
        if self._data.get("modules") is not None:
            modules = self._data["modules"]
            if not isinstance(modules, dict) or set(modules) != {"default"}:
                self._entries.refuse(
                    ("modules",),
                    "modules: only 'default' is read, that of models with one stack of layers; "
                    "merge the parts of others one by one",
                )
            path = ("modules", "default")
            section = self._entries.keys(
                modules["default"], path, {"models", "slices", "parameters"}
            )
            scopes.insert(0, parameters.read(section, path))
            if {"models", "slices"} & self._data.keys():
                self._entries.refuse((), "give exactly one of models, slices, modules")
        reader = PartReader(self._entries, self._method, self._base, self._layers)
        return scopes, reader.read(section, path)

    def _choose_donor(self) -> str:
        if self._base is not None:
            return self._base
        models = [model for part in self._parts for model, _ in part.models]
        if len(set(models)) > 1:
            self._entries.notes.append(
                f"{self._entries.document.name}: no base_model, so config and tokenizer are those "
                f"of {models[0]}; mergekit would take any model's by chance"
            )
        return models[0]

    def _model(self, model: str, name: str | None) -> dict[str, Any]:
        stage = self._stage(model)
        if stage is None:
            return {"model": model, "name": name}
        # What was called by its digest goes by it again; slabs know it by the document's name.
        own = None if NAME.fullmatch(model) and self._inputs.are_whole else model
        return {"recipe": stage, "name": name or own}


def _keeps_layers(stage: MergeRecipe) -> bool:
    """Whether a stage has the layers of the model that it names as its base."""
    return stage.stack is None and (stage.base_recipe is None or _keeps_layers(stage.base_recipe))


def _dtype(stage: MergeRecipe) -> str:
    """What a stage is stored in."""
    if stage.dtype == "base" and stage.base_recipe is not None:
        return _dtype(stage.base_recipe)
    return stage.dtype
