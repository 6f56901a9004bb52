"""Opens what a recipe merges: checkpoints, adapters and other candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from evomerge.checkpoints import Checkpoint, open_checkpoint
from evomerge.errors import MergeError, ModelError
from evomerge.merging.ancestors import Ancestors
from evomerge.merging.engine import merge_tensor
from evomerge.merging.operands import Measured, Operands, Read, no_statistics
from evomerge.merging.plan import MergePlan, Signature, make_plan
from evomerge.operators.parameters import OF_BASE, OF_SOURCES
from evomerge.recipe.check import check_own_operator
from evomerge.recipe.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from evomerge.merging.derived import DerivedTensors
    from evomerge.merging.plan import TensorJob
    from evomerge.recipe.merge import MergeRecipe, Source


class Statistics(Protocol):
    """What the models of one recipe do on its calibration texts; see `operands.ReadStatistic`."""

    def __call__(self, kind: str, source: int | None, name: str, /) -> Tensor | None:
        """Return a statistic of a tensor."""
        ...

    def texts(self) -> str:
        """Return a fingerprint of the texts."""
        ...


@dataclass(frozen=True, slots=True)
class SourceLibrary:
    """Opens each model once and shares it among recipes.

    Attributes:
        root: Folder that relative paths start from.
        find_candidate: Looks up a merge recipe by its digest.
        calibrate: Measures the models of a recipe, which are opened by the library, on its texts.
        derived: Keeps what depends on models alone; None to make it whenever it is needed.
        ancestors: Keeps tensors of nested recipes, by default only while they are needed.
    """

    root: Path
    find_candidate: Callable[[str], MergeRecipe] | None = None
    calibrate: Callable[[MergeRecipe, SourceLibrary], Statistics] | None = None
    derived: DerivedTensors | None = None
    ancestors: Ancestors[_Ancestor] = field(default_factory=lambda: Ancestors(most_bytes=0))
    _open: dict[str, Checkpoint] = field(default_factory=dict)
    _measured: Measured = field(default_factory=Measured)

    def model(self, reference: str) -> Checkpoint:
        """Open a checkpoint, or return it if it is open already.

        Raises:
            ModelError: It cannot be used.
        """
        if reference not in self._open:
            self._open[reference] = open_checkpoint(reference, root=self.root)
        return self._open[reference]

    def with_models(self, models: Mapping[str, Checkpoint]) -> SourceLibrary:
        """A library that has these models under their names, and knows nothing else of them."""
        return SourceLibrary(self.root, self.find_candidate, _open=dict(models))

    def plan(self, recipe: MergeRecipe) -> MergePlan:
        """Make the plan of a recipe from its models' headers."""
        return self.operands(recipe).plan

    def _statistics(self, recipe: MergeRecipe) -> Statistics | None:
        """What a recipe's operator must know of its models; None if it needs nothing."""
        if not check_own_operator(recipe).takes & (OF_BASE | OF_SOURCES):
            return None
        if self.calibrate is None:
            raise MergeError(
                f"{recipe.operator} measures models on texts, which nobody does here; give the "
                "library a calibrator"
            )
        return self.calibrate(recipe, self)

    def release(self) -> None:
        """Give back the memory of what was read; it can be read again."""
        for checkpoint in self._open.values():
            checkpoint.release()

    def signatures(self, reference: str) -> dict[str, Signature]:
        """Stored dtype and shape of each tensor of a model."""
        headers = self.model(reference).headers
        return {name: (header.dtype, header.shape) for name, header in headers.items()}

    def operands(self, recipe: MergeRecipe) -> Operands:
        """The plan of a recipe, and readers of its base and of its sources."""
        statistics = self._statistics(recipe)
        base = self._input(recipe.base, recipe.base_recipe)
        sources = [self._input(each.model, self._recipe(each)) for each in recipe.sources]
        texts = statistics.texts() if statistics else None
        return Operands(
            plan=make_plan(recipe, base.signatures, [s.signatures for s in sources], texts),
            base=base.read,
            sources=[source.read for source in sources],
            statistic=statistics or no_statistics,
            measured=self._measured,
            derived=self.derived,
            contents=self._contents(recipe) if self.derived is not None else (),
        )

    def _contents(self, recipe: MergeRecipe) -> list[str | None]:
        references = [None if recipe.base_recipe else recipe.base]
        references += [source.model for source in recipe.sources]
        return [None if each is None else self.model(each).identity() for each in references]

    def _input(self, model: str | None, recipe: MergeRecipe | None) -> _Input:
        if recipe is None:
            return _Input(self.signatures(model or ""), self.model(model or "").read)
        ancestor = self._ancestor(recipe)
        return _Input(ancestor.signatures, lambda name: self.ancestors.tensor(ancestor, name))

    def _ancestor(self, recipe: MergeRecipe) -> _Ancestor:
        return self.ancestors.planned(digest(recipe), lambda: self._planned(recipe))

    def _planned(self, recipe: MergeRecipe) -> _Ancestor:
        operands = self.operands(recipe)
        inner = [recipe.base_recipe, *map(self._recipe, recipe.sources)]
        base, *sources = [None if each is None else self._ancestor(each) for each in inner]
        return _Ancestor(digest(recipe), operands, base, sources)

    def _recipe(self, source: Source) -> MergeRecipe | None:
        return self._candidate(source.candidate) if source.candidate else source.recipe

    def _candidate(self, wanted: str) -> MergeRecipe:
        if self.find_candidate is None:
            raise ModelError(
                f"source candidate {wanted}: only known inside its run; write its recipe in full"
            )
        return self.find_candidate(wanted)


@dataclass(frozen=True, slots=True)
class _Input:
    """A base or a source: stored dtype and shape of its tensors, and what reads one."""

    signatures: Mapping[str, Signature]
    read: Read


class _Ancestor:
    """A candidate that others are merged from; see `ancestors.Ancestor`."""

    def __init__(
        self,
        digest: str,
        operands: Operands,
        base: _Ancestor | None,
        sources: Sequence[_Ancestor | None],
    ) -> None:
        self.digest = digest
        self._operands, self._base, self._sources = operands, base, sources
        self._jobs = {job.name: job for job in operands.plan.jobs}
        self.signatures = {name: (job.dtype, job.shape) for name, job in self._jobs.items()}

    def make(self, name: str) -> Tensor:
        job = self._job(name)
        out = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(self._operands, job, out)
        return out

    def needs(self, name: str) -> list[tuple[_Ancestor, str]]:
        job = self._job(name)
        needed = [(self._sources[index], own) for index, own in job.source_tensors]
        if job.base_tensor is not None:
            needed.append((self._base, job.base_tensor))
        return [(each, own) for each, own in needed if each is not None]

    def _job(self, name: str) -> TensorJob:
        if name not in self._jobs:
            raise ModelError(
                f"{self._operands.plan.recipe.base}, the base of a source that is a recipe: "
                f"has no tensor {name!r}."
            )
        return self._jobs[name]
