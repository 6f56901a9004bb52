"""A search over paths through layers runs, goes on and exports as any other does."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from command_line import run_cli
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

RECIPE = """\
base: {family}/base
sources: [{family}/one, {family}/two]
evaluation:
  include_path: {family}/tasks
  tasks: [tiny_choice]
  items: {{search: 8, held_out: 12}}
genome: {{operator: passthrough, layer_groups: each, path: {{scale: [0.5, 1.5]}}}}
search: {{candidates: 16, generation: 4, seed: 5}}
executor: {{kind: inline, threads: 1}}
"""


@pytest.fixture
def file(family: Path, tmp_path: Path) -> Path:
    found = tmp_path / "search.yaml"
    found.write_text(RECIPE.format(family=family))
    return found


def test_a_search_over_paths_goes_on_and_exports(file: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    first = run_cli("search", file, "--run", run, "--set", "search.candidates=10")
    assert first.code == 0, first.err
    again = run_cli("search", file, "--run", run)
    assert again.code == 0, again.err
    unbroken = run_cli("search", file, "--run", tmp_path / "unbroken")
    assert unbroken.code == 0, unbroken.err

    board = json.loads(run_cli("leaderboard", run, "--json").out)
    whole = json.loads(run_cli("leaderboard", tmp_path / "unbroken", "--json").out)
    paths = _asked(board)
    assert len(paths) == 16 - 6
    assert paths == _asked(whole)

    for path in paths[:2]:
        written = run_cli("export", run, path, "--to", "mergekit", "--out", out)
        assert written.code == 0, written.err
        slices = yaml.safe_load(out.read_text())["slices"]
        out.unlink()
        exported = run_cli("export", run, path, "--to", "checkpoint", "--out", out)
        assert exported.code == 0, exported.err
        model = AutoModelForCausalLM.from_pretrained(out)
        heights = [each["sources"][0]["layer_range"] for each in slices]
        assert model.config.num_hidden_layers == sum(stop - start for start, stop in heights)
        assert f"layers      {model.config.num_hidden_layers}: " in run_cli("show", run, path).out
        shutil.rmtree(out)


def _asked(board: dict[str, Any]) -> list[str]:
    """The paths that the strategy asked for, in order."""
    asked = [row for row in board["candidates"] if row["kind"] == "offspring" and not row["name"]]
    return [row["candidate"] for row in sorted(asked, key=lambda row: row["number"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.strategy=Evolver", "leave genome.path out, or choose a strategy of coefficients"),
        ("evaluation.backend=vllm", "genome.path: vllm keeps the layers of the model"),
        ("refine={data: {path: texts.jsonl}}", "genome.path: a model with layers of its own is"),
    ],
)
def test_what_cannot_go_with_a_path_is_refused(file: Path, change: str, message: str) -> None:
    refused = run_cli("check", file, "--set", change)
    assert refused.code == 2
    assert message in refused.out + refused.err
