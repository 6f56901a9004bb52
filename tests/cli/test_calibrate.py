"""Merges with calibration texts, from the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from command_line import run_cli

from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.merges.calibrate import METHODS

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
base: {family}/base
sources:
  - {family}/one
  - {family}/two
operator: {operator}
parameters: {parameters}
calibration: {{texts: {{one: texts.txt, two: texts.txt}}, samples: 2}}
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))


def write(
    folder: Path,
    family: Path,
    operator: str = "task_arithmetic",
    parameters: str = "{weight: 0.3}",
) -> Path:
    (folder / "texts.txt").write_text("red cat red cat\nsun and moon\nnot used")
    file = folder / "recipe.yaml"
    text = RECIPE.format(family=family, operator=operator, parameters=parameters)
    file.write_text(text)
    return file


@pytest.mark.parametrize("operator", ["fisher", "regmean", "sens_merging"])
def test_an_operator_that_measures_models_merges_a_recipe_file(
    operator: str, tmp_path: Path, family: Path
) -> None:
    recipe = write(tmp_path, family, operator, "{}")
    done = run_cli("merge", recipe, tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert list((tmp_path / "cache" / "statistics").glob("*/statistic.json"))


def test_an_operator_that_measures_models_needs_texts(tmp_path: Path, family: Path) -> None:
    recipe = write(tmp_path, family, "fisher", "{}")
    recipe.write_text("".join(recipe.read_text().splitlines(keepends=True)[:-1]))
    done = run_cli("merge", recipe, tmp_path / "out")
    assert done.code == 2
    assert "recipe.yaml: calibration: is missing; fisher needs the fisher" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("method", ["adamerging", "supermerge"])
def test_learned_coefficients_are_a_recipe_that_merges(
    method: str, tmp_path: Path, family: Path
) -> None:
    file = write(tmp_path, family)
    out = tmp_path / "elsewhere" / "learned.yaml"
    out.parent.mkdir()
    done = run_cli("calibrate", method, file, out, "--set", "steps=2", "--set", "rate=0.1")
    assert done.code == 0, done.err
    assert re.search(r"note: loss \d\.\d{4} at first, \d\.\d{4} in step 2\n", done.err)
    learned = load(MergeRecipe, out)
    assert learned.operator == "task_arithmetic"
    assert learned.calibration is None
    assert run_cli("merge", out, tmp_path / "merged").code == 0


@pytest.mark.parametrize(
    ("method", "operator", "parameters", "setting"),
    [
        ("featcal", "task_arithmetic", "{weight: 0.3}", "ridge=0.5"),
        ("prodistill", "task_arithmetic", "{weight: 0.3}", "epochs=1"),
        ("regmean_plus_plus", "linear", "{}", "off_diagonal=0.5"),
        ("localize_and_stitch", "localize_and_stitch", "{density: 0.3}", "steps=1"),
    ],
)
def test_other_methods_write_a_model_and_how_it_was_made(
    method: str, operator: str, parameters: str, setting: str, tmp_path: Path, family: Path
) -> None:
    recipe = write(tmp_path, family, operator, parameters)
    done = run_cli("calibrate", method, recipe, tmp_path / "out", "--set", setting)
    assert done.code == 0, done.err
    about = (tmp_path / "out" / "evomerge-calibration.yaml").read_text()
    assert f"method: {method}\n" in about
    assert setting.replace("=", ": ") in about
    assert f"operator: {operator}\n" in about
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("magic", [], "unknown method 'magic'; known: adamerging, featcal, localize_and_stitch,"),
        ("featcal", ["ridg=1"], "--set: ridg: unknown key; did you mean 'ridge'?"),
        ("featcal", ["ridge=-1"], "--set: ridge: input should be greater than or equal to 0"),
        ("supermerge", ["loss=entropy"], "--set: loss: unknown key"),
        ("featcal", ["ridge"], "--set ridge: expected KEY=VALUE"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line(
    method: str, settings: list[str], message: str, tmp_path: Path, family: Path
) -> None:
    options = [word for each in settings for word in ("--set", each)]
    done = run_cli("calibrate", method, write(tmp_path, family), tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_nothing_is_written_over(tmp_path: Path, family: Path) -> None:
    (tmp_path / "out.yaml").write_text("mine")
    recipe = write(tmp_path, family)
    done = run_cli("calibrate", "supermerge", recipe, tmp_path / "out.yaml")
    assert done.code == 2
    assert "out.yaml: is there already; give another name" in done.err
    assert (tmp_path / "out.yaml").read_text() == "mine"


def test_the_help_names_every_method() -> None:
    done = run_cli("calibrate", "--help")
    assert done.code == 0
    assert all(re.search(rf"^ *{name}  ", done.out, re.MULTILINE) for name in METHODS)


@pytest.mark.parametrize("method", ["supermerge", "featcal"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    method: str, tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, family)
    monkeypatch.delattr("evomerge.run.merges.calibrate.read_file")
    done = run_cli("calibrate", method, recipe, recipe / "out")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"{recipe}/out: cannot be written: {recipe} is not a folder" in done.err
