"""The models or slices of a mergekit recipe."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from evomerge.recipe.mergekit.filters import Table, entries
from evomerge.recipe.origins import base_start, slab_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.mergekit.names import Method, Theirs
    from evomerge.recipe.mergekit.values import Values


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """Neighbouring layers of the result whose parameters are the same.

    Attributes:
        layers: The layers in the result.
        members: The sources, each as index and first layer.
        base: First layer of the base.
    """

    layers: range
    members: tuple[tuple[int, int], ...]
    base: int


class Slices:
    """Writes the keys that say what is merged and with which parameters.

    Args:
        recipe: The recipe.
        method: mergekit's method for it.
        values: Its parameters.
        choices: What chooses the method's variant.

    Attributes:
        base: The base model; None if mergekit must not have one.
    """

    def __init__(
        self, recipe: MergeRecipe, method: Method, values: Values, choices: Mapping[str, bool]
    ) -> None:
        self._recipe, self._method, self._values = recipe, method, values
        self._choices: dict[str, Any] = dict(choices)
        written = [p for p in method.parameters if p.ours is not None]
        self._per_source = [p for p in written if p.per_source]
        self._shared = [p for p in written if not p.per_source]
        self._runs = list(self._find_runs())
        firsts = {recipe.sources[run.members[0][0]].model for run in self._runs}
        self.base: str | None = recipe.base
        if method.base == "first" and len(firsts) == 1:
            self.base = firsts.pop()
        if method.base == "maybe" and recipe.parameters.get("around") == "origin":
            self.base = None

    def document(self) -> dict[str, Any]:
        """The keys of the document."""
        models = [source.model for source in self._recipe.sources]
        # mergekit adds its base to `models`, where these take it for one of them.
        adds_base = self._method.name in ("karcher", "passthrough") and self.base not in models
        if len(self._runs) > 1 or self._recipe.stack is not None or adds_base:
            return {"slices": [self._slice(run) for run in self._runs]}
        (run,) = self._runs
        listed = [self._input(index, run) for index, _ in run.members]
        if self._lists_base(run):
            listed.append(self._base_input())
        shared = self._parameters(self._shared, None, run) | self._choices
        return {"models": listed, "parameters": shared} if shared else {"models": listed}

    def _slice(self, run: _Run) -> dict[str, Any]:
        height = len(run.layers)
        sources = [
            self._input(index, run) | {"layer_range": [start, start + height]}
            for index, start in run.members
        ]
        if self._lists_base(run):
            layers = {"layer_range": [run.base, run.base + height]}
            sources.append(self._base_input() | layers)
        written: dict[str, Any] = {"sources": sources}
        first = self._recipe.sources[run.members[0][0]].model
        if self._method.base == "first" and first != self.base:
            written["base_model"] = first
        shared = self._parameters(self._shared, None, run) | self._choices
        return written | ({"parameters": shared} if shared else {})

    def _lists_base(self, run: _Run) -> bool:
        """Whether the base is listed besides the sources."""
        models = [self._recipe.sources[index].model for index, _ in run.members]
        if self.base is None or self.base in models:
            return False
        if self._method.base == "any":
            # A linear merge needs no base, but without one mergekit takes config and tokenizer
            # from a random model, and adds one to `models`.
            return self._method.name == "linear" and self._recipe.stack is None
        return self._method.base != "first"

    def _base_input(self) -> dict[str, Any]:
        no_share = {"parameters": {"weight": 0.0}} if self._method.name == "linear" else {}
        return {"model": self.base, **no_share}

    def _input(self, source: int, run: _Run) -> dict[str, Any]:
        parameters = self._parameters(self._per_source, source, run)
        model = self._recipe.sources[source].model
        return {"model": model, **({"parameters": parameters} if parameters else {})}

    def _parameters(
        self, parameters: Sequence[Theirs], source: int | None, run: _Run
    ) -> dict[str, Any]:
        # Only the first and the last slice speak for the tensors outside the layers.
        loose = self._values.loose if run in (self._runs[0], self._runs[-1]) else []
        if source is not None:
            origins = self._values.origins
            loose = [name for name in loose if source in dict(origins[name].sources)]
        parts = self._values.parts
        names = [*loose, *(name for layer in run.layers for name in parts[layer])]
        short = {name: part for layer in run.layers for name, part in parts[layer].items()}
        return {
            each.name: entries(self._values.theirs(each, source, names), short, str(each.ours))
            for each in parameters
        }

    def _find_runs(self) -> Iterator[_Run]:
        bottom = 0
        for members, base, height in self._slabs():
            layers = range(bottom, bottom + height)
            bottom += height
            for _, group in groupby(layers, key=lambda layer: self._signature(layer, members)):
                run = list(group)
                offset = run[0] - layers.start
                yield _Run(
                    layers=range(run[0], run[-1] + 1),
                    members=tuple((index, start + offset) for index, start in members),
                    base=base + offset,
                )
        if not bottom:
            everyone = tuple((index, 0) for index in range(len(self._recipe.sources)))
            yield _Run(layers=range(0), members=everyone, base=0)

    def _slabs(self) -> Iterator[tuple[list[tuple[int, int]], int, int]]:
        if self._recipe.stack is None:
            everyone = [(index, 0) for index in range(len(self._recipe.sources))]
            yield everyone, 0, 1 + max(self._values.parts, default=-1)
        for slab in self._recipe.stack or ():
            yield slab_members(self._recipe, slab), base_start(self._recipe, slab), slab.height

    def _signature(self, layer: int, members: Sequence[tuple[int, int]]) -> list[Table]:
        """All values in a layer."""
        parts = self._values.parts[layer]
        scopes = [
            (parameter, source)
            for parameter in (*self._per_source, *self._shared)
            for source in ([index for index, _ in members] if parameter.per_source else [None])
        ]
        return [
            {parts[name]: value for name, value in self._values.theirs(*scope, parts).items()}
            for scope in scopes
        ]
