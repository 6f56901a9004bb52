"""Which layers of a student are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.errors import RecipeError
from evomerge.layout import locate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.merging.sources import SourceLibrary
    from evomerge.refinement.distillation import Distillation


def layers_to_train(
    work: Distillation, library: SourceLibrary, weights: Mapping[str, Tensor]
) -> set[int]:
    """The layers that a recipe names, or else those that the models of the merge have changed.

    Where no source of a merge differs from its base, there is nothing to be mended, and training
    would have to go through these layers backwards.

    Args:
        work: The student and its settings.
        library: Opens the models.
        weights: The student's weights by their stored names.

    Raises:
        RecipeError: The student has none of the layers that the recipe names.
    """
    layers = {layer for name in weights if (layer := locate(name).layer) is not None}
    if work.settings.train.layers is not None:
        first, end = work.settings.train.layers
        chosen = layers & set(range(first, end))
        if not chosen:
            raise RecipeError(
                f"train.layers: [{first}, {end}] holds no layer of the student, which has "
                f"{min(layers)} to {max(layers)}; the end is not trained"
            )
        return chosen
    base = library.model(work.student.base)
    changed: set[int] = set()
    for name in sorted(weights):
        layer = locate(name).layer
        if layer is not None and layer not in changed and _differs(base, weights[name], name):
            changed.add(layer)
    return changed or layers


def _differs(base: Checkpoint, weight: Tensor, name: str) -> bool:
    return not torch.equal(base.read(name).to(weight.device, weight.dtype), weight)
