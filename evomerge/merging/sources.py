"""Opens what a recipe merges: checkpoints, adapters and other candidates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.checkpoints import Checkpoint, open_checkpoint
from evomerge.errors import ModelError
from evomerge.merging.engine import merge_tensor
from evomerge.merging.operands import Operands, Read
from evomerge.merging.plan import MergePlan, Signature, make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.recipe.merge import MergeRecipe, Source


@dataclass(frozen=True, slots=True)
class SourceLibrary:
    """Opens each model once and shares it among recipes.

    Attributes:
        root: Folder that relative model paths start from.
        find_candidate: Looks up a merge recipe by its digest.
    """

    root: Path
    find_candidate: Callable[[str], MergeRecipe] | None = None
    _open: dict[str, Checkpoint] = field(default_factory=dict)
    _measured: dict[Hashable, Tensor] = field(default_factory=dict)

    def model(self, reference: str) -> Checkpoint:
        """Open a checkpoint, or return it if it is open already.

        Raises:
            ModelError: It cannot be used.
        """
        if reference not in self._open:
            self._open[reference] = open_checkpoint(reference, root=self.root)
        return self._open[reference]

    def plan(self, recipe: MergeRecipe) -> MergePlan:
        """Make the plan of a recipe from its base model's headers."""
        return make_plan(recipe, self.signatures(recipe.base))

    def signatures(self, reference: str) -> dict[str, Signature]:
        """Stored dtype and shape of each tensor of a model."""
        headers = self.model(reference).headers
        return {name: (header.dtype, header.shape) for name, header in headers.items()}

    def operands(self, recipe: MergeRecipe) -> Operands:
        """The plan of a recipe, and readers of its base and of its sources."""
        return Operands(
            plan=self.plan(recipe),
            base=self.model(recipe.base).read,
            sources=[self._reader(source) for source in recipe.sources],
            measured=self._measured,
        )

    def _reader(self, source: Source) -> Read:
        if source.model is not None:
            return self.model(source.model).read
        recipe = source.recipe or self._candidate(source.candidate or "")
        return _CandidateReader(self.operands(recipe))

    def _candidate(self, wanted: str) -> MergeRecipe:
        if self.find_candidate is None:
            raise ModelError(
                f"source candidate {wanted}: only known inside its run; write its recipe in full"
            )
        return self.find_candidate(wanted)


class _CandidateReader:
    """Merges another candidate's tensor when it is asked for."""

    def __init__(self, operands: Operands) -> None:
        self._operands = operands
        self._jobs = {job.name: job for job in operands.plan.jobs}

    def __call__(self, name: str) -> Tensor:
        job = self._jobs.get(name)
        if job is None:
            raise ModelError(
                f"{self._operands.plan.recipe.base}, the base of a source that is a recipe: "
                f"has no tensor {name!r}."
            )
        out = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(self._operands, job, out)
        return out
