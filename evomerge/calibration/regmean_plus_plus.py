"""RegMean whose inputs come from the layers that are merged already.

Nguyen et al., "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model
Merging", 2025, https://arxiv.org/abs/2508.03121. Biases, and parameters that are not of
linear layers, are those of the recipe's merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from evomerge.calibration.decoder import linears, run, watched
from evomerge.calibration.family import open_family
from evomerge.calibration.layerwise import LayerwiseMerge
from evomerge.operators.regmean import solve
from evomerge.recipe.schema import Number, Strict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress

Fraction = Annotated[Number, Field(ge=0, le=1)]


class RegMeanPlusPlusSettings(Strict):
    """How RegMean++ solves.

    Attributes:
        off_diagonal: Factor on the inner products of different inputs (alpha).
        cutoff: Directions of inputs that hardly occur, as a fraction of the squared strength of
            the most frequent one, are averaged.
    """

    off_diagonal: Fraction = 0.9
    cutoff: Fraction = 1e-6


def regmean_plus_plus(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: RegMeanPlusPlusSettings,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> None:
    """Solve a merge's linear layers and write it.

    Takes and raises what `featcal` does.
    """
    walk = LayerwiseMerge(open_family(recipe, library, calibrator))
    walk.write(out, library, _Solver(settings), files or {}, progress)


@dataclass(frozen=True, slots=True)
class _Solver:
    settings: RegMeanPlusPlusSettings

    def __call__(self, walk: LayerwiseMerge, index: int, merged: nn.Module) -> dict[str, Tensor]:
        weights: dict[str, list[Tensor]] = {name: [] for name in linears(merged)}
        grams: dict[str, list[Tensor]] = {name: [] for name in weights}
        for source, stream in enumerate(walk.hidden):
            layer = walk.source(source, index)
            for name, each in linears(layer).items():
                weights[name].append(each.weight)
                width, device = each.in_features, each.weight.device
                grams[name].append(torch.zeros(width, width, dtype=torch.float64, device=device))
            for hidden, calls in zip(stream, walk.calls[source], strict=True):
                with watched(layer) as reads:
                    run(layer, hidden, calls[index])
                for name, inputs in reads.items():
                    grams[name][source] += (inputs.T @ inputs).double()
        return {
            f"{name}.weight": solve(
                own,
                grams[name],
                torch.stack([each.double() for each in own]).mean(dim=0),
                off_diagonal=self.settings.off_diagonal,
                cutoff=self.settings.cutoff,
            )
            for name, own in weights.items()
        }
