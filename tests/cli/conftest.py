"""Finished runs, shared by the tests of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import run_cli, write_recipe, write_refined_search

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def finished(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; never write to it."""
    folder = tmp_path_factory.mktemp("finished")
    run = folder / "run"
    result = run_cli("search", write_recipe(folder, family), "--run", run)
    assert result.code == 0, result.err
    return run


@pytest.fixture(scope="session")
def refined(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `run` of its `search.yaml` that was refined, and its winner in `out`."""
    folder = tmp_path_factory.mktemp("refined")
    file = write_refined_search(folder, family)
    result = run_cli("search", file, "--run", folder / "run", "--export", folder / "out")
    assert result.code == 0, result.err
    return folder
