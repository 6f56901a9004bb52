"""Promise: every command does what the README says, in words a user can act on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from safetensors import safe_open

if TYPE_CHECKING:
    from pathlib import Path


from evomerge.cli.main import COMMANDS
from evomerge.recipe.digest import digest
from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe
from evomerge.search.random import RandomStrategy
from evomerge.search.strategies import STRATEGIES

pytestmark = pytest.mark.slow

HEADINGS = "rank candidate kind name search choice answer held-out"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as content:
            found |= {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    return found


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['evomerge', '--help']\n"
        "from evomerge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'lm_eval', 'nevergrad', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("[]\n")


def test_the_winner_is_named_where_no_colour_is_seen(finished: Path) -> None:
    winner = json.loads(run_cli("leaderboard", finished, "--json").out)["verdict"]["winner"]
    lines = run_cli("leaderboard", finished).out.splitlines()
    assert [line.split()[1] for line in lines if ", winner " in line] == [winner]


def test_the_leaderboard_is_one_json_document_that_keeps_its_contract(
    finished: Path,
) -> None:
    result = run_cli("leaderboard", finished, "--json")
    document = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert document.keys() == {
        *("version", "run", "state", "strategy", "stopped", "candidates"),
        *("verdict", "refinement", "refining", "forecast"),
    }
    assert (document["version"], document["run"], document["state"]) == (1, "run", "finished")
    assert document["verdict"].keys() == {
        "winner",
        "best_source",
        "difference",
        "interval",
        "p_value",
        "items",
        "comparisons",
        "search_minus_held_out",
        "text",
    }
    for row in document["candidates"]:
        assert row.keys() >= {
            "candidate",
            "rank",
            "status",
            "kind",
            "recipe",
            "search_score",
            "scores",
            "held_out_score",
            "failure",
            "parents",
        }
    kinds = [row["kind"] for row in document["candidates"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "base": 1,
        "source": 3,
        "baseline": 3,
        "offspring": 8,
    }


def test_rows_are_ranked_by_search_score(finished: Path) -> None:
    rows = json.loads(run_cli("leaderboard", finished, "--json").out)["candidates"]
    scores = [row["search_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


def test_every_parent_is_a_row_of_the_leaderboard(finished: Path) -> None:
    rows = json.loads(run_cli("leaderboard", finished, "--json").out)["candidates"]
    ids = {row["candidate"] for row in rows}
    offspring = [row for row in rows if row["kind"] == "offspring"]
    assert all(set(row["parents"]) <= ids for row in offspring)
    parents = {"elite mean": 7}
    assert all(len(row["parents"]) == parents.get(row["name"], 3) for row in offspring)


def test_the_table_shows_the_verdict_and_only_the_top(finished: Path) -> None:
    result = run_cli("leaderboard", finished, "--top", 3)
    lines = result.out.strip().splitlines()
    assert lines[0].split() == HEADINGS.split()
    assert [line.split(maxsplit=1)[0] for line in lines[1:4]] == ["1", "2", "3"]
    told = " ".join(lines[4:])
    assert told.count(" held-out items: ") == 2
    assert "on 24 held-out items" in told


@pytest.mark.parametrize("name", ["winner", "adapter", "uniform average"])
def test_show_finds_candidates_by_word_name_and_id(finished: Path, name: str) -> None:
    row = json.loads(run_cli("show", finished, name, "--json").out)
    again = run_cli("show", finished, row["candidate"][:8])
    assert again.code == 0
    assert again.out.startswith(f"candidate   {row['candidate']}, {row['kind']}")
    assert "operator: " in again.out


def test_show_finds_the_candidate_of_an_exported_recipe_by_its_digest(
    finished: Path, tmp_path: Path
) -> None:
    assert run_cli("export", finished, "--to", "recipe", "--out", tmp_path / "w.yaml").code == 0
    whole = digest(load(MergeRecipe, tmp_path / "w.yaml"))
    assert len(whole) == 64
    assert run_cli("show", finished, whole).out == run_cli("show", finished, "winner").out


def test_a_candidate_that_is_not_there_is_one_line(finished: Path) -> None:
    result = run_cli("show", finished, "nobody")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: candidate 'nobody': no candidate of that name or id; see the leaderboard\n"
    )


def test_a_name_of_several_candidates_lists_their_ids(finished: Path) -> None:
    rows = json.loads(run_cli("leaderboard", finished, "--json").out)["candidates"]
    first, _ = Counter(row["candidate"][0] for row in rows).most_common(1)[0]
    ids = [row["candidate"] for row in rows if row["candidate"].startswith(first)]
    told = f"{len(ids)} candidates of that name or id: {', '.join(ids)}; name one of them"
    assert len(ids) > 1
    assert told in run_cli("show", finished, first).err


def test_an_exported_recipe_merges_to_the_exported_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    for form, out in (("checkpoint", "direct"), ("recipe", "w.yaml"), ("mergekit", "w.mk.yaml")):
        assert run_cli("export", finished, "--to", form, "--out", tmp_path / out).code == 0
    for recipe, out in (("w.yaml", "ours"), ("w.mk.yaml", "theirs")):
        assert run_cli("merge", tmp_path / recipe, tmp_path / out).code == 0
    expected = tensors(tmp_path / "direct")
    for out in ("ours", "theirs"):
        found = tensors(tmp_path / out)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_mergekit_recipe_is_merged_with_its_seed_as_mergekit_would(
    family: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "m.yaml"
    recipe.write_text(
        f"merge_method: dare_linear\nbase_model: {family}/base\nfoo: 1\n"
        f"models: [{{model: {family}/one}}]\nparameters: {{weight: 1, density: 0.5}}\n"
    )
    result = run_cli("merge", recipe, tmp_path / "plain")
    assert result.code == 2
    assert result.err.startswith(f"error: {recipe}:3: foo: unknown key, which mergekit would ign")
    merged = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        result = run_cli("merge", recipe, tmp_path / name, "--mergekit-compat", "--seed", seed)
        assert result.code == 0
        assert f"warning: {recipe}:3: foo: unknown key, which mergekit would ignore" in result.err
        merged.append(tensors(tmp_path / name)["model.norm.weight"])
    assert torch.equal(merged[0], merged[1])
    assert not torch.equal(merged[0], merged[2])


def test_verify_is_for_what_mergekit_reads(finished: Path, tmp_path: Path) -> None:
    result = run_cli("export", finished, "--verify", "--out", tmp_path / "w.yaml")
    assert result.code == 2
    assert "--verify compares with mergekit, so it needs --to mergekit" in result.err


@pytest.mark.oracle
@pytest.mark.skipif("EVOMERGE_ORACLE" not in os.environ, reason="EVOMERGE_ORACLE names no python")
def test_verify_reports_every_tensor(finished: Path, tmp_path: Path) -> None:
    result = run_cli(
        *("export", finished, "winner", "--to", "mergekit", "--verify"),
        *("--out", tmp_path / "w.yaml"),
    )
    *tensors_, summary = result.out.splitlines()
    assert result.code == 0
    assert tensors_[0] == "model.embed_tokens.weight: equal"
    assert summary == f"{len(tensors_)} of {len(tensors_)} tensors equal"


def test_verify_fails_if_a_tensor_differs(finished: Path, family: Path, tmp_path: Path) -> None:
    # A merge tool that always makes a copy of the base.
    command = tmp_path / "mergekit-yaml"
    command.write_text(f'#!/bin/sh\ncp -r {family / "base"} "$2"\n')
    command.chmod(0o755)
    result = run_cli(
        *("export", finished, "one", "--to", "mergekit", "--verify"),
        *("--python", tmp_path / "python", "--out", tmp_path / "w.yaml"),
    )
    assert result.code == 1
    assert " ulps apart\n" in result.out
    assert "; at most " in result.out.splitlines()[-1]


def test_an_exported_checkpoint_brings_recipes_and_tokenizer(
    finished: Path, tmp_path: Path, family: Path
) -> None:
    assert run_cli("export", finished, "--to", "checkpoint", "--out", tmp_path / "m").code == 0
    names = {file.name for file in (tmp_path / "m").iterdir()}
    assert names >= {
        "config.json",
        "evomerge.yaml",
        "mergekit_config.yml",
        "model.safetensors",
        "tokenizer.json",
    }
    tokenizer = (family / "base" / "tokenizer.json").read_bytes()
    assert (tmp_path / "m" / "tokenizer.json").read_bytes() == tokenizer


@pytest.mark.parametrize("form", ["recipe", "mergekit", "checkpoint"])
def test_nothing_is_exported_over_something(finished: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    if form == "checkpoint":
        out.mkdir()
        (out / "precious").touch()
    else:
        out.write_text("precious")
    result = run_cli("export", finished, "--to", form, "--out", out)
    assert result.code in {1, 2}
    assert result.err.startswith(f"error: {out}: ")
    assert result.err.count("\n") == 1


def test_a_finished_search_is_left_as_it_is(finished: Path, tmp_path: Path, family: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = (run / "run.sqlite").read_bytes()
    result = run_cli("resume", run)
    assert result.code == 0
    assert "The winner is" in result.out
    assert (run / "run.sqlite").read_bytes() == before


def test_a_search_that_an_older_version_ended_early_stays_ended(
    finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with contextlib.closing(sqlite3.connect(run / "run.sqlite")) as store, store:
        facts = dict(store.execute("SELECT key, value FROM run WHERE key IN ('recipe', 'stop')"))
        recipe, limits = json.loads(facts["recipe"]), json.loads(facts["stop"])
        recipe["search"]["candidates"] += 50
        for newer in ("wall_hours", "gpu_hours"):
            del limits[newer], recipe["search"]["stop"][newer]
        changed = {"recipe": recipe, "stop": limits, "stopped": "it proposed nothing new"}
        store.executemany(
            "INSERT OR REPLACE INTO run VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in changed.items()],
        )
    before = (run / "run.sqlite").read_bytes()
    assert run_cli("resume", run).code == 0
    assert (run / "run.sqlite").read_bytes() == before


def test_check_reads_headers_only_and_says_what_can_be_searched(
    finished: Path,
) -> None:
    recipe = finished.parent / "search.yaml"
    result = run_cli("check", recipe)
    assert result.code == 0
    assert result.out == f"{recipe}: can be searched; 12 genes, 4 models\n"
    document = json.loads(run_cli("check", recipe, "--json").out)
    assert document.keys() == {"version", "findings"}


EVOLVE = """\
genome:
  models: [one, two]
  merge_method: ties
  base_model: base
  layer_granularity: 2
  filters: [mlp]
tasks: [{name: tiny_choice, weight: 0.5}]
limit: 8
apply_chat_template: false
"""


def test_a_file_for_mergekit_evolve_runs_and_is_printed_as_the_same_search(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(family)  # where mergekit-evolve's users have their models
    file = tmp_path / "evolve.yaml"
    file.write_text(EVOLVE)
    few = [
        "search.candidates=10",
        "evaluation.include_path=tasks",
        "evaluation.items.held_out=6",
        "executor.kind=inline",
    ]
    changes = [word for change in few for word in ("--set", change)]
    searched = run_cli("search", file, "--run", tmp_path / "run", *changes)
    assert searched.code == 0, searched.err
    printed = run_cli("check", file, *changes, "--print")
    ours = tmp_path / "elsewhere" / "ours.yaml"
    ours.parent.mkdir()
    ours.write_text(printed.out)
    assert printed.code == 0
    assert run_cli("check", ours, "--print").out == printed.out
    # The same genome: continuing the same run with it finds nothing that differs.
    continued = run_cli("search", ours, "--run", tmp_path / "run", "--set", "search.candidates=12")
    assert continued.code == 0, continued.err


def test_a_finished_run_that_cannot_go_on_keeps_its_winner(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    other = lambda settings: RandomStrategy(replace(settings, seed=99))  # noqa: E731
    monkeypatch.setitem(STRATEGIES, "random", other)
    again = run_cli(
        "search", finished.parent / "search.yaml", "--run", run, "--set", "search.candidates=20"
    )
    assert again.code == 1
    assert "the strategy proposes another one now" in again.err
    monkeypatch.undo()
    assert run_cli("show", run, "winner").out == run_cli("show", finished, "winner").out
    assert run_cli("resume", run).code == 0


@pytest.mark.parametrize("kind", ["search", "merge", "refine"])
def test_schema_is_a_json_schema(kind: str) -> None:
    schema = json.loads(run_cli("schema", kind).out)
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert schema["type"] == "object"
    assert ("data" if kind == "refine" else "base") in schema["required"]
    assert schema["additionalProperties"] is False


def test_a_reader_that_closes_early_is_no_error(finished: Path) -> None:
    command = (
        f"{sys.executable} -m evomerge leaderboard {finished} | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in {"0", "141"}


def test_a_run_that_was_extended_is_resumed_to_its_new_end(tmp_path: Path, family: Path) -> None:
    recipe = write_recipe(tmp_path, family)
    assert run_cli("search", recipe, "--run", tmp_path / "run").code == 0
    more = ("--set", "search.candidates=18")
    assert run_cli("search", recipe, "--run", tmp_path / "run", *more).code == 0
    # As if it had been killed before the last ones were done.
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as store, store:
        store.execute("DELETE FROM scores WHERE candidate > 15")
        store.execute("DELETE FROM outcomes WHERE candidate > 15")
        store.execute("DELETE FROM candidates WHERE number > 16")
        store.execute("UPDATE run SET value = '\"running\"' WHERE key = 'state'")
    assert run_cli("resume", tmp_path / "run").code == 0
    document = json.loads(run_cli("leaderboard", tmp_path / "run", "--json").out)
    numbers = [row["number"] for row in document["candidates"]]
    assert max(numbers) == 17
    assert not any(row["status"] == "pending" for row in document["candidates"])
