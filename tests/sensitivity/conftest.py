"""Models and texts that the tests of this room share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from relatives import plant_relatives

from evomerge.checkpoints import Checkpoint, open_checkpoint
from evomerge.live_model import load_checkpoint
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def relatives(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `copy` and `mirror`; never write to it."""
    folder = tmp_path_factory.mktemp("relatives")
    plant_relatives(family, folder)
    return folder


@pytest.fixture
def opened(family: Path) -> Callable[[str], Checkpoint]:
    """Opens a model of the family."""
    return lambda reference: open_checkpoint(reference, root=family)


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(texts=("red cat", "the sun and the moon", "sea"))


@pytest.fixture
def live(opened: Callable[[str], Checkpoint]) -> tuple[Any, Any]:
    """The model `one` and its tokenizer."""
    return load_checkpoint(opened("one"), torch.float32, CPU)


@pytest.fixture
def cache(tmp_path: Path) -> StatisticsCache:
    return StatisticsCache(tmp_path / "cache")
