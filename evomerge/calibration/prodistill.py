"""Learns by layers how much a merge takes of every entry of every task vector.

ProDistill: Xu, Li and Zhang, "Scalable Model Merging with Progressive Layer-wise Distillation",
2025, https://arxiv.org/abs/2502.12706. A layer of the merge reads what the merge's layers below
make, the same layer of a source what the source's make; coefficients follow the squared distance
of what the two make of the source's texts. They start from the recipe's merge, which is task
arithmetic of weight 0.3 in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from evomerge.calibration.decoder import run, run_with
from evomerge.calibration.family import open_family
from evomerge.calibration.layerwise import LayerwiseMerge
from evomerge.errors import EvaluationError
from evomerge.recipe.schema import Natural, Number, Positive, Strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from evomerge.calibration.decoder import Call
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress

Weights = dict[str, torch.Tensor]
"""Tensors of a layer by their name within it."""


class ProDistillSettings(Strict):
    """How ProDistill learns.

    Attributes:
        rate: Learning rate of Adam; the paper takes 0.1 for large language models.
        epochs: How often each text is seen by each layer.
        batch: Texts of each source in a step.
        per: What has a coefficient of its own: each entry of a task vector, each column of a
            matrix (of a vector, each entry), or each tensor. Fewer fit few texts less closely.
    """

    rate: Annotated[Number, Field(ge=0)] = 0.01
    epochs: Natural = 50
    batch: Positive = 16
    per: Literal["entry", "column", "tensor"] = "entry"


def prodistill(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: ProDistillSettings,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> None:
    """Learn a merge's layers and write it.

    In memory are a model, one layer for each source and, with a coefficient per entry, four more
    of its size: coefficients, their gradient and what Adam keeps of it.

    Takes and raises what `featcal` does; besides:

    Raises:
        EvaluationError: The distance is not finite.
    """
    walk = LayerwiseMerge(open_family(recipe, library, calibrator))
    streams = [walk.stream(index) for index in range(len(recipe.sources))]
    walk.write(out, library, _Solver(settings, streams), files or {}, progress)


@dataclass(frozen=True, slots=True)
class _Example:
    """A text at a layer: what the merge's reads, and what it should make of it."""

    hidden: Tensor
    call: Call
    wanted: Tensor


@dataclass(frozen=True, slots=True)
class _Solver:
    """Learns a layer and moves the sources' streams through theirs.

    Attributes:
        settings: How it learns.
        streams: What each source's current layer reads, for each of its texts.
    """

    settings: ProDistillSettings
    streams: list[list[Tensor]]

    def __call__(self, walk: LayerwiseMerge, index: int, merged: nn.Module) -> Weights:
        sources = range(len(self.streams))
        examples = [self._examples(walk, index, source) for source in sources]
        everything = [example for own in examples for example in own]
        names = walk.decoder.names(index)
        start = {name: each.detach() for name, each in merged.named_parameters()}
        mixture = _Mixture(
            start,
            [{n: walk.family.delta(source, names[n]) for n in start} for source in sources],
            self.settings.per,
        )
        # One pass over memory instead of many: six times as fast.
        optimizer = torch.optim.Adam(mixture.coefficients(), lr=self.settings.rate, fused=True)
        best, least = start, _distance(merged, start, everything)
        if not math.isfinite(least):
            raise EvaluationError(
                f"layer {index}: the merge is {least} away from its sources; it overflows on "
                "these texts, so start from smaller weights or look at the models"
            )
        for _ in range(self.settings.epochs):
            for batch in self._batches(examples):
                mixture.point(_gradient(merged, mixture.weights(), batch))
                optimizer.step()
            weights = mixture.weights()
            if (found := _distance(merged, weights, everything)) < least:
                best, least = weights, found
        return best

    def _examples(self, walk: LayerwiseMerge, index: int, source: int) -> list[_Example]:
        """A source's texts at a layer; its stream moves on."""
        layer, stream = walk.source(source, index), self.streams[source]
        calls = [each[index] for each in walk.calls[source]]
        stream[:] = [run(layer, *each) for each in zip(stream, calls, strict=True)]
        return [_Example(*each) for each in zip(walk.hidden[source], calls, stream, strict=True)]

    def _batches(self, examples: Sequence[Sequence[_Example]]) -> Iterator[list[_Example]]:
        """The next texts of each source, until all were seen."""
        size = self.settings.batch
        for first in range(0, max(map(len, examples)), size):
            yield [example for own in examples for example in own[first : first + size]]


class _Mixture:
    """A layer of the merge plus coefficients, 0 at first, times the sources' task vectors.

    Args:
        start: The layer of the merge.
        deltas: That of each source's task vector.
        per: What has a coefficient of its own.
    """

    def __init__(self, start: Weights, deltas: Sequence[Weights], per: str) -> None:
        self._start = start
        self._deltas = deltas
        # Each broadcasts over the tensor it belongs to.
        kept = {"entry": slice(None), "column": slice(-1, None), "tensor": slice(0)}[per]
        self._coefficients = [
            {name: each.new_zeros(each.shape[kept]) for name, each in own.items()}
            for own in deltas
        ]

    def coefficients(self) -> list[Tensor]:
        """All coefficients, which may be changed in place."""
        return [each for own in self._coefficients for each in own.values()]

    def weights(self) -> Weights:
        """The layer that the coefficients make."""
        made = {name: each.clone() for name, each in self._start.items()}
        for own, deltas in zip(self._coefficients, self._deltas, strict=True):
            for name, each in made.items():
                each.addcmul_(own[name], deltas[name])
        return made

    def point(self, gradient: Mapping[str, Tensor]) -> None:
        """Give the coefficients the gradient that follows from that of the weights."""
        for own, deltas in zip(self._coefficients, self._deltas, strict=True):
            for name, each in own.items():
                each.grad = (gradient[name] * deltas[name]).sum_to_size(each.shape)


def _gradient(layer: nn.Module, weights: Weights, batch: Sequence[_Example]) -> Weights:
    """The gradient of the distance with regard to weights."""
    for each in weights.values():
        each.requires_grad = True
    with torch.enable_grad():
        for example in batch:
            # One text at a time: no more than one has to be remembered.
            torch.autograd.backward(_error(layer, weights, example))
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad
        for name, each in weights.items()
    }


@torch.no_grad()
def _distance(layer: nn.Module, weights: Weights, examples: Sequence[_Example]) -> float:
    return sum(float(_error(layer, weights, example)) for example in examples)


def _error(layer: nn.Module, weights: Weights, example: _Example) -> Tensor:
    found = run_with(weights, layer, example.hidden, example.call)
    return (found - example.wanted).square().sum()
