"""Promise: a backend that is not installed is missed before any work is done, in one line."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
from command_line import write_recipe

from evomerge.errors import VersionError
from evomerge.evaluation.backends.contract import check_backend
from evomerge.recipe.load import load
from evomerge.recipe.search import SearchRecipe
from evomerge.run.preparation.prepare import check_search

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def test_the_backend_that_needs_nothing_is_always_there() -> None:
    check_backend("hf")


@pytest.mark.usefixtures("_without_vllm")
def test_a_backend_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(
        VersionError, match=r"vllm is not installed; pip install 'evomerge\[vllm\]'"
    ):
        check_backend("vllm")


@pytest.mark.parametrize(("address", "missed"), [(None, True), ("somewhere:1", False)])
def test_it_is_missed_by_a_check_unless_workers_are_elsewhere(
    tmp_path: Path,
    family: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    missed: bool,
) -> None:
    recipe = load(SearchRecipe, write_recipe(tmp_path, family))
    evaluation = recipe.evaluation.model_copy(update={"backend": "vllm"})
    executor = recipe.executor.model_copy(update={"address": address})
    recipe = recipe.model_copy(update={"evaluation": evaluation, "executor": executor})
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "vllm" else found(name, package),
    )
    result = check_search(recipe, tmp_path)
    lines = [finding.message for finding in result.errors]
    assert [line.startswith("backend vllm: vllm is not installed") for line in lines] == (
        [True] if missed else []
    )
    assert (result.search is None) is missed
