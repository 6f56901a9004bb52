"""Promise: `evomerge inspect` says what to expect of a merge, or in one line why it cannot."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from command_line import run_cli
from relatives import plant_relatives
from rich.console import Console

from evomerge.cli.inspect import show

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Result


@pytest.fixture(scope="module")
def relatives(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relatives")
    plant_relatives(family, folder)
    return folder


@pytest.fixture(scope="module")
def planted(family: Path, relatives: Path) -> Result:
    models = [family / "one", relatives / "copy", relatives / "mirror"]
    return run_cli("inspect", *models, "--base", family / "base")


def test_planted_relations_are_told(planted: Result) -> None:
    assert (planted.code, planted.err) == (0, "")
    assert "- copy and one are the same model" in planted.out
    assert "- one and mirror pull in opposite directions in layer 1" in planted.out


def test_sources_have_a_row_of_kinship_and_a_row_of_blocks(planted: Result) -> None:
    rows = [line.split() for line in planted.out.splitlines()]
    assert rows[0] == ["source", "moved", "changed", "[1]", "[2]", "[3]"]
    (kinship, heat) = [row for row in rows if row[:2] == ["[2]", "copy"]]
    assert kinship[4:6] == ["1.00", "1.00"]
    assert len(heat[2]) == 4
    assert set(heat[2]) <= set("▁▂▃▄▅▆▇█")
    assert ["[3]", "mirror", "··"] in [[*row[:2], row[2][:2]] for row in rows if len(row) == 3]
    assert ["[1]", "/", "[3]", "··█·"] in rows


@pytest.mark.parametrize("count", [2, 6, 12])
def test_everything_fits_eighty_columns_without_colours(
    family: Path, tmp_path: Path, count: int
) -> None:
    models = [f"a-name-that-is-longer-than-any-column-{n}" for n in range(count)]
    for number, model in enumerate(models):
        (tmp_path / model).symlink_to(family / ("one", "two", "three")[number % 3])
    paths = [tmp_path / model for model in models]
    result = run_cli("inspect", *paths, "--base", family / "base", "--json")
    document = json.loads(result.out)
    layer = document["layers"][1]
    document["layers"] = [layer | {"layer": str(n)} for n in range(200)]
    text = io.StringIO()
    show(document, Console(width=80, file=text, no_color=True))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines) >= count
    kinship = [line.split()[-1] for line in lines if line.startswith("[") and "%" in line]
    assert len(kinship) == count
    assert any(line.startswith("source") and "closest" in line for line in lines) == (count == 12)
    assert set(kinship) == {"1.00"} if count == 12 else kinship[-1] == "1.00"


def test_columns_are_told_in_the_order_of_a_forward_pass(family: Path) -> None:
    models = ["inspect", family / "one", "--base", family / "base"]
    lines = run_cli(*models).out.splitlines()
    assert "columns: embed_tokens, layers 0-1, norm" in lines
    document = json.loads(run_cli(*models, "--json").out)
    document["layers"] = [document["layers"][0] | {"layer": f"encoder.{n}"} for n in range(2)]
    text = io.StringIO()
    show(document, Console(width=80, file=text, no_color=True))
    assert "columns: encoder.0, encoder.1" in text.getvalue().splitlines()


def test_figures_are_saved(family: Path, tmp_path: Path) -> None:
    adapter = f"{family / 'base'}+{family / 'lora'}"
    result = run_cli("inspect", family / "one", adapter, "--out", tmp_path / "a" / "b")
    assert result.code == 0
    assert result.err == f"figures written to {tmp_path / 'a' / 'b'}\n"
    names = {file.name for file in (tmp_path / "a" / "b").iterdir()}
    assert names == {"kinship.svg", "norms.svg", "conflict.svg"}


def test_the_document_is_printed_alone(family: Path) -> None:
    result = run_cli("inspect", family / "one", "--base", family / "base", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["version"] == 1


def test_models_that_do_not_fit_are_shown_with_the_reason(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "one", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'))
    result = run_cli("inspect", tmp_path / "other", "--base", family / "base")
    assert result.code == 2
    assert result.out.startswith("error: ")
    assert "rms_norm_eps" in result.out.splitlines()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{family}/one"], "--base is missing and no MODEL is an adapter"),
        (["{family}/none", "--base", "{family}/base"], "no folder {family}/none"),
        (
            ["{family}/one", "--base", "{family}/base", "--out", "{family}/one/config.json/x"],
            "{family}/one/config.json/x: cannot be written: Not a directory",
        ),
    ],
)
def test_what_cannot_be_done_costs_one_line(
    family: Path, options: list[str], message: str
) -> None:
    result = run_cli("inspect", *(option.format(family=family) for option in options))
    assert result.code in {1, 2}
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert message.format(family=family) in result.err
    assert result.err.count("\n") == 1


def test_a_model_has_to_be_named() -> None:
    result = run_cli("inspect")
    assert result.code == 2
    assert "Missing argument 'MODELS...'" in result.err
