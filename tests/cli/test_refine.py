"""A search ends with a refined model, in one command and in words a user can act on."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command_line import run_cli, write_refined_search
from safetensors.torch import load_file, save_file
from students import write_texts

from evomerge.checkpoints import open_checkpoint
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def leaderboard(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_cli("leaderboard", run, "--json").out)
    return found


def courses_of(run: Path, kind: str) -> list[dict[str, Any]]:
    """How the students of a run were trained that are of a kind."""
    document = leaderboard(run)
    kinds = {row["candidate"]: row["kind"] for row in document["candidates"]}
    courses = document["refinement"]["courses"]
    return [course for candidate, course in courses.items() if kinds[candidate] == kind]


def test_the_refined_model_and_its_control_are_candidates_with_lineage(refined: Path) -> None:
    document = leaderboard(refined / "run")
    rows = {row["kind"]: row for row in document["candidates"]}
    assert rows["refined"]["parents"] == rows["control"]["parents"]
    student = rows["refined"]["parents"][0]
    assert student in {row["candidate"] for row in document["candidates"]}
    for kind in ("refined", "control"):
        assert rows[kind]["held_out_score"] is not None
        assert rows[kind]["search_score"] is not None


def test_the_verdict_compares_the_refined_model_with_the_merge_and_with_the_control(
    refined: Path,
) -> None:
    text = leaderboard(refined / "run")["verdict"]["text"]
    assert "than the merge it was made from" in text or "from the merge it was made from" in text
    assert "the same merge trained on the texts alone on 24 held-out items" in text


def test_show_says_how_a_refined_model_was_trained(refined: Path) -> None:
    text = run_cli("show", refined / "run", "refined").out
    assert " steps, " in text
    assert "set aside   loss █" in text
    assert "whose weights were kept" in text
    (course,) = courses_of(refined / "run", "refined")
    for step, loss in enumerate(course["validation_losses"]):
        texts = f"{course['losses'][step - 1]:.4f}" if step else ""
        assert f"{step:>16}  {texts:>9}  {loss:>9.4f}\n" in text
    assert "in doubt    the best step was chosen by 6 texts only: give more, or raise" in text


def test_a_refined_model_that_is_worse_does_not_win(refined: Path) -> None:
    document = leaderboard(refined / "run")
    rows = {row["candidate"]: row for row in document["candidates"]}
    model = next(row for row in rows.values() if row["kind"] == "refined")
    student = rows[model["parents"][0]]
    better = model["search_score"] >= student["search_score"]
    expected = model if better else student
    assert document["verdict"]["winner"] == expected["candidate"]


def test_the_exported_folder_has_a_card_with_held_out_scores(refined: Path) -> None:
    card = (refined / "out" / "README.md").read_text()
    assert "base_model_relation: merge" in card
    assert "| this model | " in card
    assert "It was refined by distillation." in card
    (course,) = courses_of(refined / "run", "refined")
    assert f"| 0 |  | {course['validation_losses'][0]:.4f} |" in card
    assert f"| 9 | {course['losses'][8]:.4f} | {course['validation_losses'][9]:.4f} |" in card
    assert "adapter-" not in card
    assert str(refined) not in card


def test_a_refined_candidate_is_exported_from_its_recipe(refined: Path, tmp_path: Path) -> None:
    result = run_cli(
        "export", refined / "run", "refined", "--to", "checkpoint", "--out", tmp_path / "model"
    )
    assert result.code == 0, result.err
    run_cli("export", refined / "run", "refined", "--out", tmp_path / "recipe.yaml")
    again = run_cli("merge", tmp_path / "recipe.yaml", tmp_path / "again")
    assert again.code == 0, again.err
    one, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")
    )
    assert one == other


def test_a_refined_run_is_not_refined_again(refined: Path) -> None:
    for command in (("refine", refined / "run"), ("resume", refined / "run")):
        result = run_cli(*command)
        assert result.code == 0, result.err
        assert "training:" not in result.err


def test_other_settings_refine_the_same_student_again(refined: Path, tmp_path: Path) -> None:
    shutil.copytree(refined / "run", tmp_path / "run")
    before = leaderboard(tmp_path / "run")
    result = run_cli("refine", tmp_path / "run", "--set", "train.rank=2", "--set", "control=false")
    assert result.code == 0, result.err
    after = leaderboard(tmp_path / "run")
    kinds = [row["kind"] for row in after["candidates"]]
    assert kinds.count("refined") == 2
    parents = {tuple(r["parents"]) for r in after["candidates"] if r["kind"] == "refined"}
    assert len(parents) == 1
    assert before["candidates"] != after["candidates"]


def test_settings_that_cannot_work_are_not_what_a_run_is_continued_with(
    refined: Path, tmp_path: Path
) -> None:
    shutil.copytree(refined / "run", tmp_path / "run")
    before = leaderboard(tmp_path / "run")
    result = run_cli(
        "refine", tmp_path / "run", "--set", "train.rate=1e9", "--set", "control=false"
    )
    assert result.code == 1
    assert "train with a lower train.rate" in result.err
    assert run_cli("resume", tmp_path / "run").code == 0
    assert leaderboard(tmp_path / "run") == before


def test_a_teacher_that_is_no_model_is_found_before_the_search(
    family: Path, tmp_path: Path
) -> None:
    file = write_refined_search(tmp_path, family)
    (tmp_path / "empty").mkdir()
    file.write_text(file.read_text().replace(f"{family}/two}}]", "./empty}]"))
    result = run_cli("check", file)
    assert result.code != 0
    assert "empty: has neither model.safetensors" in result.err


def test_a_student_for_each_teacher_is_merged_with_the_others(
    refined: Path, tmp_path: Path
) -> None:
    shutil.copytree(refined / "run", tmp_path / "run")
    result = run_cli(
        "refine", tmp_path / "run", "--set", "mode=pairwise", "--set", "control=false"
    )
    assert result.code == 0, result.err
    rows = leaderboard(tmp_path / "run")["candidates"]
    names = {row["name"] for row in rows if row["kind"] == "refined"}
    assert {"refined by one", "refined by two"} < names
    merged = next(r for r in rows if r["recipe"].get("base_recipe") and r["kind"] == "refined")
    assert len(merged["recipe"]["sources"]) == 2


def test_a_run_that_was_moved_exports_its_refined_model(refined: Path, tmp_path: Path) -> None:
    shutil.copytree(refined, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    kept = refined / "run" / "refined"
    kept.rename(kept.with_name("away"))
    run, out = tmp_path / "new" / "run", tmp_path / "out"
    result = run_cli("export", run, "refined", "--to", "checkpoint", "--out", out)
    kept.with_name("away").rename(kept)
    assert result.code == 0, result.err
    assert str(run) in (out / "evomerge.yaml").read_text()


def test_the_estimate_says_how_much_is_kept(refined: Path) -> None:
    result = run_cli("refine", refined / "run", "--estimate")
    assert result.code == 0, result.err
    assert "one: 708 tokens to predict" in result.out
    assert "two: 710 tokens to predict" in result.out
    assert "k = 8 " in result.out
    assert "% of the probability" in result.out
    assert "cache.k: 128 leaves out too much" in result.out
    assert "enough for all" not in result.out


def test_teachers_are_called_by_the_names_of_the_sources(refined: Path, tmp_path: Path) -> None:
    result = run_cli("refine", refined / "run", "--estimate", "--set", "teachers=[one]")
    assert "one: 1,418 tokens to predict" in result.out, result.err
    result = run_cli("refine", refined / "run", "--estimate", "--set", "teachers=[onee]")
    assert "or one of the sources one, two, adapter; did you mean 'one'?" in result.err


def test_what_cannot_be_refined_is_not_estimated(refined: Path) -> None:
    pairwise = ("--set", "mode=pairwise", "--set", "operator=nosuch")
    result = run_cli("refine", refined / "run", "--estimate", *pairwise)
    assert result.code == 2
    assert result.err.startswith("error: the merge of the students: operator: unknown operator")


def test_a_refinement_that_was_stopped_is_told_below_the_leaderboard(
    refined: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(refined / "run", run)
    assert not leaderboard(run)["refining"]
    with closing(RunStore.open_for_writing(run / "run.sqlite")) as store:
        store.write_facts({"refining": True})
    assert leaderboard(run)["refining"]
    assert "has begun and not ended: evomerge resume goes on" in run_cli("leaderboard", run).out


def test_texts_that_are_items_of_the_search_are_refused(family: Path, tmp_path: Path) -> None:
    file = write_refined_search(tmp_path, family)
    lines = (family / "tasks" / "tiny_choice.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    texts = [json.dumps({"prompt": i["question"], "completion": " any."}) for i in items]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    result = run_cli("check", file)
    assert result.code == 2
    assert "refine: data: " in result.err
    assert "item" in result.err


def test_a_search_that_has_not_finished_has_nothing_to_refine(
    family: Path, tmp_path: Path
) -> None:
    result = run_cli("refine", tmp_path / "nowhere")
    assert result.code == 1
    assert result.err.count("\n") == 1


REFINEMENT = """
data: {path: texts.jsonl}
train: {rate: 0.01, epochs: 1, batch_tokens: 256, pass_tokens: 128, rank: 4}
"""


def write_refinement(folder: Path, text: str = "") -> Path:
    write_texts(folder / "texts.jsonl")
    file = folder / "refine.yaml"
    file.write_text(REFINEMENT + text, encoding="utf-8")
    return file


def test_a_model_is_refined_without_a_search(family: Path, tmp_path: Path) -> None:
    file = write_refinement(tmp_path, f"teachers: [{family}/one]\n")
    result = run_cli("refine", family / "two", "--recipe", file, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "refined: the loss on the texts set aside fell from " in result.out
    assert "refined: the best step was chosen by 6 texts only: give more, or raise" in result.out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "two, refined with [evomerge](" in card
    assert "by distillation from one. " in card
    assert "| step | texts | set aside |" in card
    before = open_checkpoint("two", root=family)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert any(not torch.equal(before.read(name), tensor) for name, tensor in after.items())
    again = run_cli("merge", tmp_path / "out" / "evomerge.yaml", tmp_path / "again")
    assert again.code == 0, again.err
    rebuilt = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(rebuilt[name], tensor) for name, tensor in after.items())


def test_the_merge_of_a_file_learns_from_its_sources(family: Path, tmp_path: Path) -> None:
    merge = tmp_path / "merge.yaml"
    merge.write_text(
        f"base: {family}/base\nsources: [{family}/one, {family}/two]\noperator: linear\n"
    )
    file = write_refinement(tmp_path, "mode: pairwise\n")
    result = run_cli("refine", merge, "--recipe", file, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "refined by one: the loss" in result.out
    assert "refined by two: the loss" in result.out
    assert "by distillation from one and two. " in (tmp_path / "out" / "README.md").read_text()
    lines = run_cli("refine", merge, "--recipe", file, "--estimate").out.splitlines()
    assert any(line.startswith("one: ") for line in lines)


def test_a_teacher_of_no_text_is_told_in_an_estimate(family: Path, tmp_path: Path) -> None:
    file = write_refinement(
        tmp_path,
        "fuse: by_domain\n"
        f"teachers: [{{model: {family}/one, domains: [one, two]}}, {family}/two]\n",
    )
    result = run_cli("refine", family / "base", "--recipe", file, "--estimate")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "two: is asked of no text"


def test_of_a_search_recipe_its_refine_block_counts(family: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl")
    file = tmp_path / "search.yaml"
    block = [f"  {line}" for line in f"{REFINEMENT}\nteachers: [{family}/one]".splitlines()]
    file.write_text("\n".join(["base: elsewhere", "refine:", *block]))
    result = run_cli("refine", family / "two", "--recipe", file, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    file.write_text(file.read_text() + "\n  losss: {}")
    result = run_cli("refine", family / "two", "--recipe", file, "--out", tmp_path / "other")
    assert f"{file}:{len(block) + 3}: losss: unknown key; did you mean 'loss'?" in result.err


def test_a_merge_of_other_layers_is_to_be_written_first(family: Path, tmp_path: Path) -> None:
    merge = tmp_path / "merge.yaml"
    merge.write_text(
        "merge_method: passthrough\ndtype: float32\nslices:\n"
        + f"- sources: [{{model: {family}/one, layer_range: [0, 2]}}]\n" * 2
    )
    file = write_refinement(tmp_path, f"teachers: [{family}/one]\n")
    result = run_cli("refine", merge, "--recipe", file, "--out", tmp_path / "out")
    assert result.code == 2
    assert f"{merge}: stack: a merge with one is not trained as it is; write it" in result.err


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ("", "teachers: missing, and a student that is no merge has no sources"),
        ("teachers: [one]\n", "give --out FOLDER"),
        ("teachers: [one]\ncontrol: true\n", "control: true is for the winner of a run"),
    ],
)
def test_what_a_model_cannot_be_refined_without_is_said(
    family: Path, tmp_path: Path, teachers: str, message: str
) -> None:
    file = write_refinement(tmp_path, teachers.replace("one", f"{family}/one"))
    out = () if message.startswith("give") else ("--out", tmp_path / "out")
    result = run_cli("refine", family / "two", "--recipe", file, *out)
    assert result.code in {1, 2}
    assert message in result.err


def test_other_settings_in_the_same_place_are_trained_anew(family: Path, tmp_path: Path) -> None:
    file = write_refinement(tmp_path, f"teachers: [{family}/one]\n")
    written = {}
    for rate in ("0.01", "0.001"):
        arguments = ("--recipe", file, "--set", f"train.rate={rate}", "--out", tmp_path / "out")
        result = run_cli("refine", family / "two", *arguments)
        assert result.code == 0, result.err
        written[rate] = (tmp_path / "out" / "model.safetensors").read_bytes()
        shutil.rmtree(tmp_path / "out")
    assert written["0.01"] != written["0.001"]


def test_a_student_is_named_as_from_the_current_folder(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_refinement(tmp_path, f"teachers: [{family}/one]\n")
    monkeypatch.chdir(family)
    result = run_cli("refine", "two", "--recipe", file, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert f"model: {family}/two" in (tmp_path / "out" / "evomerge.yaml").read_text()


def other_weights(teacher: Path) -> None:
    file = teacher / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["model.norm.weight"] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def other_template(teacher: Path) -> None:
    (teacher / "chat_template.jinja").write_text("{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("change", "whose"), [(other_weights, "a teacher"), (other_template, "its chat template")]
)
@pytest.mark.parametrize("of", ["model", "run"])
def test_a_teacher_that_has_changed_since_a_refinement_began_is_refused_with_both_hashes(
    refined: Path, family: Path, tmp_path: Path, of: str, change: Any, whose: str
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(family / "one", teacher)
    command: list[Any] = ["refine", tmp_path / "run"]
    if of == "run":
        shutil.copytree(refined / "run", tmp_path / "run")
    else:
        file = write_refinement(tmp_path)
        command = ["refine", family / "two", "--recipe", file, "--out", tmp_path / "out"]
    for own in (f"teachers=[{teacher}]", "train.rate=1e9", "control=false"):
        command += ["--set", own]
    assert "train with a lower train.rate" in run_cli(*command).err
    change(teacher)
    result = run_cli(*command)
    assert result.code == 1, result.err
    (line,) = [each for each in result.err.splitlines() if each.startswith("error: ")]
    expected = rf"error: {teacher}, {whose}: has changed since the training in .* began, from "
    found = re.fullmatch(rf"{expected}(\w{{12}}) to (\w{{12}}); restore it, or remove .*", line)
    assert found, line
    assert found[1] != found[2]
