"""Merges into the parameters of a model that stays loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import ModelError
from evomerge.memory import keep_freed_blocks
from evomerge.merging.engine import merge_tensor
from evomerge.operators.fuse import compiling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.merging.plan import TensorJob
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe


class ResidentWeights:
    """The parameters of a live model, and which merge each of them holds.

    Args:
        parameters: The model's tensors by the names that the base model's checkpoint has for
            them; written in place, whatever their dtype or device. Other tensors of the
            checkpoint are not merged.
        library: Opens the models.
        stacked: Whether the model has the layers of recipes that stack them, and no others.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], library: SourceLibrary, *, stacked: bool = False
    ) -> None:
        keep_freed_blocks()
        self._parameters = parameters
        self._library, self._stacked = library, stacked
        self._held: dict[str, tuple[object, ...]] = {}

    def merge(self, recipe: MergeRecipe) -> int:
        """Make the model hold a merge; tensors that hold it already are not touched.

        Returns:
            Number of tensors written.

        Raises:
            MergeError: A tensor cannot be merged or is not finite.
            ModelError: A tensor has another shape in the live model.
        """
        if recipe.stack is not None and not self._stacked:
            raise ModelError(
                "stack: a model that stays loaded keeps its layers; export the merge and load that"
            )
        if recipe.tokenizer is not None:
            raise ModelError(
                "tokenizer: a model that stays loaded keeps its vocabulary; export the merge and "
                "load that"
            )
        operands = self._library.operands(recipe)
        jobs = (job for job in operands.plan.jobs if job.name in self._parameters)
        stale = [job for job in jobs if self._held.get(job.name) != job.key]
        for job in stale:
            parameter = self._parameter(job)
            self._held.pop(job.name, None)
            # A device tensor is filled from a host one: blocks are too small for its bus.
            on_host = parameter.device.type == "cpu" and parameter.is_contiguous()
            out = parameter if on_host else torch.empty(job.shape, dtype=job.dtype)
            with torch.inference_mode(), compiling():
                merge_tensor(operands, job, out)
                if not on_host:
                    parameter.copy_(out)
            self._held[job.name] = job.key
        return len(stale)

    def _parameter(self, job: TensorJob) -> Tensor:
        parameter = self._parameters[job.name]
        if parameter.shape != job.shape:
            raise ModelError(
                f"tensor {job.name} of shape {job.shape}: the loaded model has shape "
                f"{tuple(parameter.shape)}; this architecture stores its weights in another "
                "layout than it runs them"
            )
        return parameter
