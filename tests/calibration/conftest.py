"""Recipes over the tiny family, with texts for each source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

TEXTS = {
    "one": ["red cat red cat red cat", "one two one two one two"],
    "two": ["the sun the sun the sun", "sea moon sea moon sea"],
    "base": ["a bird"],
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of texts for each model."""
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in TEXTS.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return {name: str(folder / f"{name}.txt") for name in TEXTS}


@pytest.fixture
def library(family: Path) -> SourceLibrary:
    return SourceLibrary(family)


@pytest.fixture
def calibrator(tmp_path: Path) -> Calibrator:
    return Calibrator(cache=StatisticsCache(tmp_path / "cache"), device="cpu")


@pytest.fixture
def recipe(texts: dict[str, str]) -> Callable[..., MergeRecipe]:
    """A recipe over `base`, by default task arithmetic of `one` and `two`; sources have texts."""

    def make(*sources: str, **fields: Any) -> MergeRecipe:
        names = sources or ("one", "two")
        document = {
            "base": "base",
            "sources": [*names],
            "operator": "task_arithmetic",
            "parameters": {"weight": 0.3},
            "dtype": "float32",
            "calibration": {"texts": {name: texts[name] for name in names}},
        }
        return MergeRecipe.model_validate(document | fields)

    return make


def _read_all(folder: Path) -> dict[str, Tensor]:
    checkpoint = SourceLibrary(folder.parent).model(folder.name)
    return {name: checkpoint.read(name).clone() for name in checkpoint.headers}


@pytest.fixture(scope="session")
def read_all() -> Callable[[Path], dict[str, Tensor]]:
    """Read every tensor of a checkpoint folder."""
    return _read_all
