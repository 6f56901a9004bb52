"""Small checkpoints in memory, and recipes over the tiny family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.merging.engine import merge_tensor
from evomerge.merging.operands import Operands
from evomerge.merging.plan import make_plan
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.randomness import generator
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor


def _draw(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test")).to(dtype)


def _recipe(*sources: Any, operator: str = "linear", **fields: Any) -> MergeRecipe:
    """A recipe over `base`; sources are names or mappings."""
    document = {"base": "base", "sources": list(sources), "operator": operator} | fields
    return MergeRecipe.model_validate(document)


@dataclass
class Bench:
    """Merges one tensor of models that are held in memory.

    Attributes:
        base: The base's tensor.
        sources: The sources' tensors by name.
        name: What the tensor is called.
    """

    base: Tensor
    sources: dict[str, Tensor]
    name: str = "model.layers.0.mlp.up_proj.weight"
    out_dtype: torch.dtype | None = field(default=None)

    def merge(self, operator: str = "linear", **fields: Any) -> Tensor:
        """Merge into a tensor of the job's dtype, or of `out_dtype`."""
        recipe = _recipe(*self.sources, operator=operator, **fields)
        plan = make_plan(recipe, {self.name: (self.base.dtype, tuple(self.base.shape))})
        (job,) = plan.jobs
        out = torch.full(job.shape, 7, dtype=self.out_dtype or job.dtype)
        readers = [lambda _, tensor=tensor: tensor for tensor in self.sources.values()]
        operands = Operands(plan=plan, base=lambda _: self.base, sources=readers)
        merge_tensor(operands, job, out)
        return out


def _same_bits(first: Tensor, second: Tensor) -> bool:
    bytes_of = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return first.dtype == second.dtype and torch.equal(*bytes_of)


def _read_all(folder: Path) -> dict[str, Tensor]:
    checkpoint = SourceLibrary(folder.parent).model(folder.name)
    return {name: checkpoint.read(name).clone() for name in checkpoint.headers}


# Functions as fixtures, because test modules cannot import this file.


@pytest.fixture(scope="session")
def draw() -> Callable[..., Tensor]:
    return _draw


@pytest.fixture(scope="session")
def recipe() -> Callable[..., MergeRecipe]:
    return _recipe


@pytest.fixture(scope="session")
def bench() -> type[Bench]:
    return Bench


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    return _same_bits


@pytest.fixture(scope="session")
def read_all() -> Callable[[Path], dict[str, Tensor]]:
    """Read every tensor of a checkpoint folder."""
    return _read_all


@pytest.fixture
def library(family: Path) -> SourceLibrary:
    return SourceLibrary(family)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch's threads; it is put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
