"""A search may use operators that measure models on texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import run_cli, write_recipe

from evomerge.recipe.load import load
from evomerge.recipe.search import SearchRecipe
from evomerge.run.prepare import check_search

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recipe(tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search recipe for Fisher merging, with texts beside it."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("red cat\nsun and moon\n")
    file = write_recipe(tmp_path, family)
    text = file.read_text().replace("genome: {", "genome: {operator: fisher, ")
    file.write_text(text + "calibration: {texts: texts.txt, samples: 2}\n")
    return file


def test_candidates_are_merged_with_what_is_measured(recipe: Path, tmp_path: Path) -> None:
    done = run_cli("search", recipe, "--run", tmp_path / "run", "--set", "search.candidates=8")
    assert done.code == 0, done.err
    shown = run_cli("leaderboard", tmp_path / "run", "--json")
    assert '"operator": "fisher"' in shown.out
    assert '"status": "failed"' not in shown.out
    assert len(list((tmp_path / "cache" / "statistics").glob("fisher-*"))) >= 3


def test_paths_of_texts_start_from_the_recipe_and_their_content_is_remembered(
    recipe: Path, tmp_path: Path
) -> None:
    def identity() -> str:
        found = check_search(load(SearchRecipe, recipe), tmp_path)
        assert found.search is not None
        assert found.search.genome.decode([0.5] * len(found.search.genome.genes)).calibration == (
            found.search.recipe.calibration
        )
        return found.search.identities[str(tmp_path / "texts.txt")]

    before = identity()
    assert identity() == before
    (tmp_path / "texts.txt").write_text("something else\n")
    assert identity() != before


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("texts.txt", "nothing.txt", "calibration", "nothing.txt: cannot be read"),
        ("calibration:", "#", "genome", "calibration: is missing; fisher needs the fisher"),
    ],
    ids=["a file that is not there", "no texts"],
)
def test_what_is_missing_is_found_before_the_search(
    old: str, new: str, where: str, message: str, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(recipe.read_text().replace(old, new))
    (error,) = check_search(load(SearchRecipe, recipe), tmp_path).errors
    assert error.where == where
    assert message in error.message
