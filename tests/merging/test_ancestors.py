"""Promise: of a lineage every tensor is merged once, however many heirs it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch
from recipe.test_lineage_table import make, twins

from evomerge.merging.ancestors import Ancestors
from evomerge.merging.engine import merge_tensor
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.lineage import MAX_DEPTH

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe


@dataclass(eq=False)
class Individual:
    """A candidate whose tensors are the sums of its parents', and a list of what was made."""

    digest: str
    parents: list[Individual]
    kept: Ancestors[Individual]
    made: list[str] = field(default_factory=list)

    def make(self, name: str) -> Tensor:
        self.made.append(self.digest)
        parts = [self.kept.tensor(each, name) for each in self.parents]
        return sum(parts, torch.ones(()))

    def needs(self, name: str) -> list[tuple[Individual, str]]:
        return [(each, name) for each in self.parents]


def generations(count: int, kept: Ancestors[Individual]) -> Individual:
    made: list[str] = []
    first, second = (Individual(name, [], kept, made) for name in "ab")
    for number in range(count):
        parents = [first, second]
        first, second = (Individual(f"{name}{number}", parents, kept, made) for name in "ab")
    return first


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_every_ancestor_is_merged_once_whatever_the_room(room: int) -> None:
    kept: Ancestors[Individual] = Ancestors(room)
    last = generations(12, kept)
    assert kept.tensor(last, "t") == 2**13 - 1
    assert len(last.made) == len(set(last.made)) == 25


def test_only_what_is_still_needed_stays_without_room() -> None:
    kept: Ancestors[Individual] = Ancestors(0)
    kept.tensor(generations(12, kept), "t")
    # The last one, and what of its parents was there when it was made.
    assert len(kept._tensors) <= 3


def test_with_room_an_ancestor_is_not_merged_again_for_the_next_heir() -> None:
    kept: Ancestors[Individual] = Ancestors()
    last = generations(5, kept)
    kept.tensor(last, "t")
    heir = Individual("heir", [last, last.parents[1]], kept, last.made)
    kept.tensor(heir, "t")
    assert last.made.count("heir") == 1
    assert len(last.made) == len(set(last.made))


def test_a_lineage_of_many_paths_is_merged(family: Path) -> None:
    recipe = twins(MAX_DEPTH - 1)
    # All individuals of a generation are the mean of the first two.
    mean = make("one", "two")
    found, expected = (first_tensor(SourceLibrary(family), each) for each in (recipe, mean))
    assert torch.equal(found, expected)


def first_tensor(library: SourceLibrary, recipe: MergeRecipe) -> Tensor:
    operands = library.operands(recipe)
    job = operands.plan.jobs[0]
    out = torch.empty(job.shape, dtype=job.dtype)
    merge_tensor(operands, job, out)
    return out
