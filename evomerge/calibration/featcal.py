"""Moves a merge's linear layers so that each source's texts give that source's features.

FeatCal, 2026, https://arxiv.org/abs/2605.13030, as its released solver computes it, which is for
vision models, carried over to decoders. Parameters that are not of linear layers stay as the
merge made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.calibration.decoder import linears, run, watched
from evomerge.calibration.family import open_family
from evomerge.calibration.layerwise import LayerwiseMerge
from evomerge.calibration.regression import Moments, Regression
from evomerge.recipe.schema import Number, Strict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress


class FeatCalSettings(Strict):
    """How FeatCal solves.

    Attributes:
        ridge: Pull towards the anchor (lambda).
        anchor: The anchor in units of the merge's task vector (rho): 1 is the merge, more goes
            further from the base.
        teacher: Share of the source's own activations in what its layers read (alpha); the rest
            is the merge's.
    """

    ridge: Annotated[Number, Field(ge=0)] = 0.05
    anchor: Number = 2.0
    teacher: Annotated[Number, Field(ge=0, le=1)] = 0.3


def featcal(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: FeatCalSettings,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> None:
    """Calibrate a merge and write it.

    Args:
        recipe: The merge, with a calibration.
        library: Opens its models.
        calibrator: Reads its texts and says where models run.
        settings: How it solves.
        out: The folder; must not exist or be empty.
        files: Further files to put beside the weights, by name.
        progress: Told the layers done, and of how many.

    Raises:
        RecipeError: The recipe gives a source no texts, or changes layers or vocabulary.
        MergeError: A result is not finite.
        ModelError: A model cannot be opened or run.
        OutputError: `out` is taken or cannot be written; DiskFullError if the disk is full.
    """
    walk = LayerwiseMerge(open_family(recipe, library, calibrator))
    streams = [walk.stream(index) for index in range(len(recipe.sources))]
    walk.write(out, library, _Solver(settings, streams), files or {}, progress)


@dataclass(frozen=True, slots=True)
class _Solver:
    """Solves a layer and moves the sources' streams through theirs.

    Attributes:
        settings: How it solves.
        streams: What each source's current layer reads, for each of its texts.
    """

    settings: FeatCalSettings
    streams: list[list[Tensor]]

    def __call__(self, walk: LayerwiseMerge, index: int, merged: nn.Module) -> dict[str, Tensor]:
        device = walk.family.model.device
        modules = linears(merged)
        regressions = {
            name: Regression(each.in_features, each.out_features, device)
            for name, each in modules.items()
        }
        for source in range(len(self.streams)):
            self._ask(walk, index, source, merged, regressions)
        solved: dict[str, Tensor] = {}
        for name, regression in regressions.items():
            weight = regression.weight(
                self._anchor(walk, index, f"{name}.weight"), self.settings.ridge
            )
            solved[f"{name}.weight"] = weight
            if modules[name].bias is not None:
                anchor = self._anchor(walk, index, f"{name}.bias")
                solved[f"{name}.bias"] = regression.bias(weight, anchor, self.settings.ridge)
        return solved

    def _ask(
        self,
        walk: LayerwiseMerge,
        index: int,
        source: int,
        merged: nn.Module,
        regressions: Mapping[str, Regression],
    ) -> None:
        """Gather what a source asks of a layer, and run its texts through its own."""
        layer, stream = walk.source(source, index), self.streams[source]
        modules = linears(layer)
        moments = {
            name: Moments(each.in_features, each.weight.device) for name, each in modules.items()
        }
        for text, hidden in enumerate(stream):
            call = walk.calls[source][text][index]
            with watched(layer) as own, watched(merged) as theirs:
                stream[text] = run(layer, hidden, call)
                run(merged, walk.hidden[source][text], call)
            for name, reads in theirs.items():
                share = self.settings.teacher
                moments[name].add(reads, share * own[name] + (1 - share) * reads)
        for name, each in modules.items():
            regressions[name].add(moments[name], each.weight, each.bias)

    def _anchor(self, walk: LayerwiseMerge, index: int, parameter: str) -> Tensor:
        name = walk.decoder.names(index)[parameter]
        base = walk.family.base(name).double()
        merged = walk.family.merged(name).to(base.device, torch.float64)
        return base + self.settings.anchor * (merged - base)
