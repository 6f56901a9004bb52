"""Promise: bad input costs one clear line, exit 1, 2 or 4, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from programs import write_program_task
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tmp_path: Path, family: Path) -> Path:
    return write_recipe(tmp_path, family)


@pytest.fixture
def copy(tmp_path: Path, family: Path) -> Path:
    """A copy of the family that a test may damage, and a recipe for it."""
    shutil.copytree(family, tmp_path / "own")
    write_recipe(tmp_path, tmp_path / "own")
    return tmp_path


def refused(recipe: Path, *options: str) -> str:
    """Search with a bad recipe; the one line it costs."""
    run = recipe.parent / "run"
    result = run_cli("search", recipe, "--run", run, *options)
    assert result.code in {1, 2}
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    assert "Traceback" not in result.err
    assert not run.exists()
    return errors[0].removeprefix("error: ")


def test_an_unknown_key(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("candidates", "candidate"))
    assert refused(recipe) == (
        f"{recipe}:11: search.candidate: unknown key; did you mean 'candidates'?"
    )


def test_a_task_that_runs_generated_code(recipe: Path, tmp_path: Path) -> None:
    write_program_task(tmp_path / "programs")
    options = [f"evaluation.include_path={tmp_path}/programs", "evaluation.allow_task_code=true"]
    flags = [part for option in options for part in ("--set", option)]
    assert refused(recipe, *flags, "--set", "evaluation.tasks=[programs]") == (
        "evaluation: task programs: runs the code that models generate (unsafe_code); read "
        "SECURITY.md, then set evaluation.allow_generated_code=true to accept it"
    )


def test_a_wrong_type(recipe: Path) -> None:
    message = refused(recipe, "--set", "search.candidates=many")
    assert "search.candidates" in message
    assert "found 'many'" in message


def test_a_missing_model(recipe: Path, family: Path) -> None:
    recipe.write_text(recipe.read_text().replace("/one", "/none"))
    message = refused(recipe)
    assert message.startswith("sources.0: ")
    assert f"{family}/none" in message


def test_a_source_of_another_shape(copy: Path) -> None:
    file = copy / "own" / "one" / "model.safetensors"
    content = load_file(file)
    content["model.norm.weight"] = torch.zeros(31)
    save_file(content, file, metadata={"format": "pt"})
    message = refused(copy / "search.yaml")
    assert "model.norm.weight" in message
    assert "31" in message
    assert "32" in message


def test_a_truncated_shard(copy: Path) -> None:
    shard = sorted((copy / "own" / "two").glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    message = refused(copy / "search.yaml")
    assert shard.name in message
    assert f"incomplete: {len(content) - 100} of {len(content)} bytes" in message


def test_an_unknown_task(recipe: Path) -> None:
    message = refused(recipe, "--set", "evaluation.tasks=[tiny_choise]")
    assert message.endswith("task 'tiny_choise' does not exist; did you mean 'tiny_choice'?")


def test_more_items_than_there_are(recipe: Path) -> None:
    message = refused(
        recipe,
        "--set",
        "evaluation.tasks=[tiny_choice]",
        "--set",
        "evaluation.items.search=500",
    )
    assert "has 40 different items, but 500 search" in message


def test_an_operator_that_does_not_exist(recipe: Path) -> None:
    message = refused(recipe, "--set", "genome.operator=tis")
    assert "unknown operator 'tis'. Did you mean 'ties'?" in message


def test_more_layer_groups_than_layers(recipe: Path) -> None:
    message = refused(recipe, "--set", "genome.layer_groups=3")
    assert "3, but the model has 2 layers" in message


def test_several_findings_come_at_once(copy: Path) -> None:
    (copy / "own" / "one" / "config.json").unlink()
    shutil.rmtree(copy / "own" / "lora")
    result = run_cli("check", copy / "search.yaml", "--set", "genome.operator=tis")
    assert result.code == 2
    assert result.err.count("error: ") == 3


def with_text(recipe: Path, *more: str) -> Path:
    (recipe.parent / "letters.txt").write_text("".join(f"{n} red cats\n" for n in range(30)))
    tasks = "tasks: [{name: letters, text: letters.txt}, tiny_choice]"
    lines = recipe.read_text().splitlines()
    own = [line for line in lines if "tasks: [" in line]
    (line,) = own
    indent = line[: len(line) - len(line.lstrip())]
    text = recipe.read_text().replace(line, "\n".join(indent + each for each in (tasks, *more)))
    recipe.write_text(text)
    return recipe


def test_tasks_that_cannot_race_are_named_and_scored_on_all_items(recipe: Path) -> None:
    result = run_cli("search", with_text(recipe), "--run", recipe.parent / "run")
    assert result.code == 0
    assert "the score of letters is no mean over items" in result.err
    rows = json.loads(run_cli("leaderboard", recipe.parent / "run", "--json").out)["candidates"]
    assert {row["share"] for row in rows} == {1.0}
    assert run_cli("resume", recipe.parent / "run").code == 0


def test_a_race_that_is_asked_for_and_cannot_be_run(recipe: Path) -> None:
    message = refused(with_text(recipe, "racing: {alpha: 0.1}"))
    assert message.startswith("evaluation.racing: the score of letters is no mean over items")
    assert message.endswith("write racing: null")


def test_rungs_that_do_not_rise(recipe: Path) -> None:
    message = refused(recipe, "--set", "evaluation.racing.rungs=[0.5, 0.25]")
    assert "evaluation.racing.rungs: expected rising shares between 0 and 1" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{max_gen_toks: 0}", "generation.max_gen_toks: input should be greater than 0"),
        ("{max_gen_toks: many}", "generation.max_gen_toks"),
        ("{max_gen_tokens: 3}", "unknown key; did you mean 'max_gen_toks'?"),
        ("{until: []}", "generation.until"),
        ("{num_beams: 4}", "num_beams: unknown key"),
        ("{max_gen_toks: 100000}", "max_gen_toks: 100000 is not between 1 and the model's window"),
    ],
)
def test_settings_of_generation_that_make_no_sense(
    recipe: Path, settings: str, message: str
) -> None:
    task = f"evaluation.tasks=[{{name: tiny_answer, generation: {settings}}}]"
    result = run_cli("search", recipe, "--run", recipe.parent / "run", "--set", task)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_chat_template_that_the_base_does_not_have(recipe: Path) -> None:
    tasks = "evaluation.tasks=[{name: tiny_choice, chat_template: true}]"
    message = refused(recipe, "--set", tasks)
    assert (
        "task tiny_choice: asks for a chat template, and the base's tokenizer has none" in message
    )


def test_another_recipe_for_the_same_run_folder(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = run_cli(
        "search", finished.parent / "search.yaml", "--run", run, "--set", "search.seed=6"
    )
    assert result.code == 2
    assert "this run folder holds another search; it differs in search.seed" in result.err


def test_a_model_that_has_changed_since_the_run_was_started(copy: Path) -> None:
    recipe, run = copy / "search.yaml", copy / "run"
    assert run_cli("search", recipe, "--run", run, "--set", "search.candidates=8").code == 0
    file = copy / "own" / "one" / "model.safetensors"
    content = load_file(file)
    content["model.norm.weight"] += 1
    save_file(content, file, metadata={"format": "pt"})
    result = run_cli("search", recipe, "--run", run)
    assert result.code == 1
    assert "own/one: has changed on disk since this run was started" in result.err


def test_a_folder_that_holds_no_run(tmp_path: Path) -> None:
    for command in ("leaderboard", "show", "resume"):
        result = run_cli(command, tmp_path)
        assert result.code == 1
        assert result.err == f"error: {tmp_path}: holds no run (no run.sqlite)\n"


def test_the_second_of_two_launches_says_who_holds_the_folder(
    recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-m", "evomerge", "search", str(recipe), "--run", str(run)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / "run.holder.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        second = run_cli("search", recipe, "--run", run)
        holder = json.loads((run / "run.holder.json").read_text())
    finally:
        first.kill()
        first.wait()
    assert second.code == 4
    assert second.err.startswith(f"error: {run}: in use by process {first.pid} on ")
    assert holder["since"] in second.err


@pytest.mark.parametrize("name", ["a\\x1b[31m", "a\\nb", "a\\0b"])
def test_a_name_that_would_control_the_terminal(recipe: Path, name: str) -> None:
    recipe.write_text(recipe.read_text().replace("name: adapter", f'name: "{name}"'))
    assert "sources.2.name" in refused(recipe)


def test_a_device_that_is_not_there(recipe: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    message = refused(recipe, "--set", "evaluation.device=cuda")
    assert message == "evaluation: device cuda is not available; use cpu or auto"


def test_a_run_folder_that_is_a_file(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_cli("search", recipe, "--run", tmp_path / "file")
    assert result.code == 1
    assert result.err == f"error: {tmp_path}/file: is a file; give another --run\n"


def test_a_budget_below_the_starting_candidates_is_a_warning(recipe: Path) -> None:
    result = run_cli("check", recipe, "--set", "search.candidates=3")
    assert result.code == 0
    assert "warning: search.candidates: 3, but base, sources and baselines are 7" in result.err


def test_a_budget_that_the_sources_use_up_as_first_population_is_a_warning(recipe: Path) -> None:
    bred = ("--set", "search.strategy=Evolver", "--set", "search.candidates=10")
    result = run_cli("check", recipe, *bred)
    assert result.code == 0
    assert "baselines are 7 and the first population is the 3 sources again; thes" in result.err
    enough = run_cli("check", recipe, *bred[:3], "search.candidates=11")
    assert "search.candidates" not in enough.err


def test_a_seed_that_the_generator_cannot_take(recipe: Path) -> None:
    assert "search.seed" in refused(recipe, "--set", f"search.seed={2**32}")


def test_a_mistake_of_ours_is_one_line_too(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.run.folder.RunFolder.database", property(lambda _: 1 // 0))
    result = run_cli("leaderboard", finished)
    assert result.code == 1
    assert result.err == (
        "error: unexpected ZeroDivisionError: integer division or modulo by zero; "
        "please report it with --debug's trace\n"
    )


def test_a_trace_is_shown_only_when_asked_for(tmp_path: Path) -> None:
    plain = run_cli("resume", tmp_path)
    debug = run_cli("--debug", "resume", tmp_path)
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.code == plain.code == 1


def test_a_run_of_a_version_that_knew_fewer_settings_is_continued(recipe: Path) -> None:
    run = recipe.parent / "run"
    assert run_cli("search", recipe, "--run", run).code == 0
    with closing(sqlite3.connect(run / "run.sqlite")) as store, store:
        (text,) = store.execute("SELECT value FROM run WHERE key = 'recipe'").fetchone()
        stored = json.loads(text)
        del stored["evaluation"]["racing"]
        for task in stored["evaluation"]["tasks"]:
            del task["text"], task["chat_template"], task["generation"]
        store.execute("UPDATE run SET value = ? WHERE key = 'recipe'", (json.dumps(stored),))
    assert run_cli("resume", run).code == 0
    changes = ["--set", "search.candidates=16", "--set", "evaluation.racing=null"]
    longer = run_cli("search", recipe, "--run", run, *changes)
    assert longer.code == 0, longer.err
