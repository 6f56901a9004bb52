"""What follows from models alone is made once and kept, until it is damaged or makes room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from evomerge.errors import ModelError
from evomerge.merging import derived
from evomerge.merging.derived import DerivedTensors
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe


class Maker:
    """Makes a tensor and counts how often."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.calls = tensor, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.tensor


@pytest.mark.parametrize("shape", [(5,), (3, 4), (0,), ()], ids=str)
def test_a_tensor_is_made_once_for_all_processes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    make = Maker(torch.arange(torch.Size(shape).numel(), dtype=torch.int16).view(shape))
    for _ in range(2):
        kept = DerivedTensors(tmp_path)  # as another process would
        assert torch.equal(kept.fetch("key", make), make.tensor)
        assert torch.equal(kept.fetch("key", make), make.tensor)
    assert make.calls == 1


def test_another_key_is_another_tensor(tmp_path: Path) -> None:
    kept = DerivedTensors(tmp_path)
    assert kept.fetch("one", Maker(torch.ones(2))).sum() == 2
    assert kept.fetch("two", Maker(torch.zeros(2))).sum() == 0


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    make = Maker(torch.arange(100))
    DerivedTensors(tmp_path).fetch("key", make)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    assert torch.equal(DerivedTensors(tmp_path).fetch("key", make), make.tensor)
    assert make.calls == 2


def test_what_was_derived_in_another_way_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Maker(torch.arange(100))
    for version in (1, 2):
        monkeypatch.setattr(derived, "VERSION", version)
        DerivedTensors(tmp_path).fetch("key", make)
    assert make.calls == 2


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    kept = DerivedTensors(tmp_path, max_bytes=3000)
    first = kept.fetch("first", Maker(torch.ones(256)))
    kept.fetch("second", Maker(torch.ones(256)))
    kept.fetch("third", Maker(torch.ones(256)))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    assert first.sum() == 256  # what is in use stays readable
    again = Maker(torch.ones(256))
    DerivedTensors(tmp_path, max_bytes=3000).fetch("first", again)
    assert again.calls == 1


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"the cache cannot be written: .*EVOMERGE_CACHE"):
        DerivedTensors(tmp_path / "file" / "folder").fetch("key", Maker(torch.ones(1)))


def test_ranks_are_kept_between_candidates_and_change_nothing(
    family: Path, tmp_path: Path, recipe: Callable[..., MergeRecipe]
) -> None:
    results = []
    for kept in (None, DerivedTensors(tmp_path), DerivedTensors(tmp_path)):
        library = SourceLibrary(family, derived=kept)
        held = {
            name: torch.empty(shape) for name, (_, shape) in library.signatures("base").items()
        }
        merge = recipe("one", "two", operator="della", parameters={"weight": 0.5})
        ResidentWeights(held, library).merge(merge)
        results.append(held)
    assert all(torch.equal(results[0][n], each[n]) for each in results for n in each)
    assert len([*tmp_path.iterdir()]) == 2 * len(results[0])
