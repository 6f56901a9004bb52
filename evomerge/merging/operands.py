"""What a merge is made of: tensors of models, and what is known about them beforehand."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.layout import Component, locate
from evomerge.merging.plan import base_identity, source_identity
from evomerge.operators.chunks import Chunks
from evomerge.operators.measure import Measure, measure_source, take_measure
from evomerge.operators.parameters import OF_SOURCES
from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from evomerge.merging.derived import DerivedTensors
    from evomerge.merging.plan import MergePlan, TensorJob
    from evomerge.operators.registry import Derive

Read = Callable[[str], Tensor]
"""Gives the tensor of a name."""

ReadStatistic = Callable[[str, int | None, str], Tensor | None]
"""Gives the calibration statistic of a kind, of a source's index (None: of the base), for the
tensor of a name; None where a tensor has none."""


def no_statistics(kind: str, source: int | None, name: str) -> Tensor | None:  # noqa: ARG001
    """A `ReadStatistic` where nothing is measured.

    Raises:
        MergeError: Always.
    """
    raise MergeError(f"needs the statistic {kind!r} of calibration texts, which are not given")


class Measured(OrderedDict[Hashable, Tensor]):
    """What first passes found, by all that it depends on; the oldest make room for new ones."""

    LIMIT = 100_000

    def __setitem__(self, key: Hashable, value: Tensor) -> None:
        super().__setitem__(key, value)
        if len(self) > self.LIMIT:
            self.popitem(last=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operands:
    """Where the merge of a recipe gets its tensors from.

    Attributes:
        plan: The recipe's plan.
        base: Gives a tensor of the base model.
        sources: The same for each source, in the recipe's order.
        statistic: Gives a calibration statistic.
        measured: Keeps what first passes found.
        derived: Keeps what depends on models alone; None to make it whenever it is needed.
        contents: What tells the content of the base and of each source from others, without
            which nothing of them is kept in `derived`; None for what is a merge itself.
    """

    plan: MergePlan
    base: Read
    sources: Sequence[Read]
    statistic: ReadStatistic = no_statistics
    measured: Measured = field(default_factory=Measured)
    derived: DerivedTensors | None = None
    contents: Sequence[str | None] = ()

    def stored(self, job: TensorJob) -> tuple[Tensor, list[Tensor]]:
        """Base and sources of a tensor as they are stored.

        Raises:
            MergeError: The sources differ in shape.
        """
        tensors = [self.sources[index](name) for index, name in job.source_tensors]
        base = tensors[0] if job.base_tensor is None else self.base(job.base_tensor)
        # Tensors are merged flat, where those of other shapes would pass unnoticed.
        for (index, _), tensor in zip(job.source_tensors, tensors, strict=True):
            if tensor.shape != job.shape:
                label = self.plan.recipe.sources[index].label
                found, wanted = tuple(tensor.shape), job.shape
                raise MergeError(f"source {label} has shape {found}, the base model {wanted}")
        return base, tensors

    def stack(self, job: TensorJob) -> tuple[Tensor, Tensor]:
        """Base and the operator's stack of a tensor, in the dtype of the arithmetic."""
        base, tensors = self.stored(job)
        base = base.to(job.compute)
        stack = torch.empty(len(tensors), *job.shape, dtype=job.compute)
        for row, tensor in zip(stack, tensors, strict=True):
            row.copy_(tensor)
            if self._takes_deltas:
                row.sub_(base)
        return base, stack

    def _chunks(self, job: TensorJob, base: Tensor, tensor: Tensor) -> Chunks:
        return Chunks(tensor, base if self._takes_deltas else None, job.compute)

    @property
    def _takes_deltas(self) -> bool:
        return self.plan.operator.space == "delta"

    def inputs(self, job: TensorJob) -> dict[str, Any]:
        """What the operator and its measure take besides stack, base and parameters."""
        operator = self.plan.operator
        read = operator.measure.reads if operator.measure else ()
        wanted = operator.inputs | {*read}
        found: dict[str, Any] = {}
        numbers = {
            "depth": job.depth,
            "component": list(Component).index(locate(job.name).component),
            "row_length": job.shape[-1] if len(job.shape) > 1 else 1,
        }
        found |= {key: torch.tensor(value) for key, value in numbers.items() if key in wanted}
        if "offset" in wanted:
            found["offset"] = torch.tensor(self._offset(job))
        if "draws" in wanted:
            labels = (self.plan.recipe.sources[index].label for index, _ in job.source_tensors)
            seed = self.plan.recipe.seed
            found["draws"] = [draws(seed, job.name, job.layer, label) for label in labels]
        if "activation" in wanted:
            name = job.base_tensor or job.name
            found["activation"] = self.statistic("activation", None, name)
        found |= {kind: self._of_sources(kind, job) for kind in sorted(OF_SOURCES & wanted)}
        for kind, derive in operator.derived.items():
            found[kind] = [
                self._derive(kind, derive, job, row) for row in range(len(job.source_tensors))
            ]
        if operator.measure is not None:
            found["measured"] = self._measure(operator.measure, job, found)
        return found

    def _of_sources(self, kind: str, job: TensorJob) -> Tensor | None:
        """A statistic of the sources of a tensor, one row per source."""
        parts = [self.statistic(kind, index, name) for index, name in job.source_tensors]
        known = [part for part in parts if part is not None]
        if len({part.shape for part in known}) > 1:
            raise MergeError(f"the {kind} of the sources differ in shape; they are no siblings")
        if len(known) < len(parts):
            # Where no gradient is known, as of a tied head that is stored, none counts more.
            return torch.ones(()).expand(len(parts), *job.shape) if kind == "fisher" else None
        rows = torch.stack(known)
        members = [index for index, _ in job.source_tensors]
        return rows[:, members] if kind == "distance" else rows

    def _derive(self, kind: str, derive: Derive, job: TensorJob, row: int) -> Tensor:
        def make() -> Tensor:
            base, tensors = self.stored(job)
            return derive(self._chunks(job, base, tensors[row]))

        index, name = job.source_tensors[row]
        contents = [self.contents[0], self.contents[1 + index]] if self.contents else [None]
        if self.derived is None or None in contents:
            return make()
        return self.derived.fetch(
            f"{kind} {job.compute} {contents} {job.base_tensor} {name}", make
        )

    def _offset(self, job: TensorJob) -> int:
        """Entries of the floating point tensors that come before."""
        before = itertools.takewhile(lambda other: other is not job, self.plan.jobs)
        return sum(math.prod(other.shape) for other in before if other.dtype.is_floating_point)

    def _measure(self, measure: Measure, job: TensorJob, inputs: Mapping[str, Any]) -> Tensor:
        keys = list(self._keys(measure, job))
        missing = [row for row, key in enumerate(keys) if key not in self.measured]
        arguments = {**job.arguments, **inputs}
        if missing and measure.of_source:
            base, tensors = self.stored(job)
            for row in missing:
                source = self._chunks(job, base, tensors[row])
                whole = source if measure.span == "chunks" else source.whole()
                found = measure_source(measure, whole, row, {**arguments, "base": base})
                self.measured[keys[row]] = found
        elif missing and measure.span == "model":
            self.measured[keys[0]] = take_measure(
                measure, torch.empty(0), arguments, _Stacks(self)
            )
        elif missing and measure.span == "streams":
            base, tensors = self.stored(job)
            streams = [self._chunks(job, base, tensor) for tensor in tensors]
            read = {k: v for k, v in {**arguments, "base": base}.items() if k in measure.reads}
            self.measured[keys[0]] = measure.function(streams, **read)
        elif missing:
            arguments["base"], stack = self.stack(job)
            self.measured[keys[0]] = take_measure(measure, stack, arguments)
        rows = [self.measured[key] for key in keys]
        return torch.stack(rows) if measure.of_source else rows[0]

    def measure_model(self) -> None:
        """Take the first pass over the whole model, if there is one."""
        measure = self.plan.operator.measure
        jobs = (job for job in self.plan.jobs if job.dtype.is_floating_point)
        if measure is not None and measure.span == "model" and (job := next(jobs, None)):
            self.inputs(job)

    def _keys(self, measure: Measure, job: TensorJob) -> Iterator[Hashable]:
        """Everything that a first pass depends on: one key, or one per source."""
        recipe, read = self.plan.recipe, set(measure.reads)
        settings = [(name, job.arguments[name]) for name in sorted(read & job.arguments.keys())]
        sources = [
            (
                source_identity(recipe.sources[index]),
                name,
                (recipe.seed, recipe.sources[index].label) if "draws" in read else None,
            )
            for index, name in job.source_tensors
        ]
        common = (
            measure.function.__module__,
            measure.function.__qualname__,
            self.plan.operator.space,
            base_identity(recipe),
            self.plan.texts,
        )
        if measure.span == "model":
            labels = tuple((source_identity(source), source.label) for source in recipe.sources)
            yield (*common, labels, recipe.seed, *settings)
        elif not measure.of_source:
            yield (*common, job.name, job.base_tensor, *sources, *settings)
        else:
            for row, source in enumerate(sources):
                own = [(n, v[row] if isinstance(v, tuple) else v) for n, v in settings]
                yield (*common, job.name, job.base_tensor, source, *own)


@dataclass(frozen=True, slots=True)
class _Stacks:
    """The stacks of all floating point tensors of a model, which can be gone through again."""

    operands: Operands

    def __iter__(self) -> Iterator[Tensor]:
        for job in self.operands.plan.jobs:
            if job.dtype.is_floating_point:
                yield self.operands.stack(job)[1]
