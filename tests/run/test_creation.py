"""Promise: what was chosen when a run began is said, kept, and not chosen again."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from command_line import run_cli, write_recipe

from evomerge.run.beginning import strategy
from evomerge.run.beginning.creation import begin, create, notes
from evomerge.run.beginning.strategy import strategy_of
from evomerge.run.preparation.prepare import prepare_search
from evomerge.run.preparation.search_file import read_search
from evomerge.search.random import RandomStrategy

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.search.contract import StrategySettings

pytestmark = pytest.mark.slow

AUTO = "search.strategy=auto"
CHOICE = "CMA, because nothing that we measured finds more with 12 genes"


@pytest.fixture
def recipe(tmp_path: Path, family: Path) -> Path:
    return write_recipe(tmp_path, family)


def test_check_says_which_strategy_auto_is(recipe: Path) -> None:
    result = run_cli("check", recipe, "--set", AUTO)
    assert (result.code, result.err) == (0, f"note: search.strategy: {CHOICE}\n")
    document = json.loads(run_cli("check", recipe, "--set", AUTO, "--json").out)
    assert document["findings"] == [
        {"severity": "note", "where": "search.strategy", "message": CHOICE, "remedy": ""}
    ]


def test_a_strategy_that_the_recipe_names_needs_no_word(recipe: Path) -> None:
    assert run_cli("check", recipe).err == ""


def test_a_run_keeps_its_strategy_whatever_would_be_chosen_now(
    recipe: Path, tmp_path: Path
) -> None:
    read = read_search(recipe, (AUTO,))
    search, _ = prepare_search(read.recipe, read.root)
    (tmp_path / "run").mkdir()
    with closing(create(tmp_path / "run" / "run.sqlite", search, begin(search))) as store:
        assert store.fact("strategy")["name"] == "CMA"
        before = {"name": "random", "reason": "it was chosen then"}
        store.write_facts({"strategy": before})
        assert isinstance(strategy_of(store, search), RandomStrategy)
        assert [note.message for note in notes(store)] == ["random, because it was chosen then"]
    result = run_cli("leaderboard", tmp_path / "run")
    assert result.out.startswith("strategy: random, because it was chosen then\nrank ")
    document = json.loads(run_cli("leaderboard", tmp_path / "run", "--json").out)
    assert document["strategy"] == before


def test_a_strategy_is_told_how_many_candidates_it_will_not_propose(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[StrategySettings] = []
    monkeypatch.setattr(strategy, "build_strategy", lambda _, settings: found.append(settings))
    read = read_search(recipe)
    search, _ = prepare_search(read.recipe, read.root)
    with closing(create(tmp_path / "run.sqlite", search, begin(search))) as store:
        strategy_of(store, search)
    # Of 14 candidates: the base, three sources, three baselines.
    assert [(each.candidates, each.starting, each.proposals) for each in found] == [(14, 7, 7)]


def test_a_generation_too_large_to_learn_from_is_worth_a_warning(recipe: Path) -> None:
    options = ("--set", "search.candidates=48", "--set", "search.generation=32")
    assert run_cli("check", recipe, *options).err == (
        "warning: search.generation: 41 offspring are less than two generations of 32; the search "
        "learns more from generations of 8\n"
    )
