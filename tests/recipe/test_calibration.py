"""A recipe says which texts its models are measured on, and an operator that measures asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe


def recipe(operator: str = "fisher", **fields: Any) -> MergeRecipe:
    document = {"base": "base", "sources": ["one", "two"], "operator": operator} | fields
    return MergeRecipe.model_validate(document)


def test_one_file_is_for_all_models() -> None:
    settings = CalibrationSettings(texts="texts.txt")
    assert [settings.file(label) for label in ("base", "one")] == ["texts.txt"] * 2
    assert settings.files() == ("texts.txt",)


def test_files_by_name_are_for_these_models_only() -> None:
    settings = CalibrationSettings(texts={"one": "a.txt", "base": "b.txt"})
    assert [settings.file(label) for label in ("one", "base", "two")] == ["a.txt", "b.txt", None]
    assert settings.files() == ("a.txt", "b.txt")


def test_relative_paths_start_from_the_root() -> None:
    settings = CalibrationSettings(texts={"one": "a.txt", "two": "/b.txt"}, samples=3)
    assert settings.under(Path("/root")).model_dump() == {
        "texts": {"one": "/root/a.txt", "two": "/b.txt"},
        "samples": 3,
        "max_tokens": 512,
    }
    assert CalibrationSettings(texts="a.txt").under(Path("/root")).texts == "/root/a.txt"


def test_a_recipe_without_texts_has_the_digest_it_always_had() -> None:
    assert digest(recipe("linear")) == (
        digest(MergeRecipe(base="base", sources=recipe().sources, operator="linear"))
    )
    assert "calibration" not in recipe("linear").model_dump(exclude_defaults=True)


def test_other_texts_are_another_digest() -> None:
    settings: list[dict[str, Any]] = [
        {"texts": "a.txt"},
        {"texts": "b.txt"},
        {"texts": "a.txt", "samples": 7},
        {"texts": "a.txt", "max_tokens": 7},
    ]
    assert len({digest(recipe(calibration=each)) for each in settings}) == len(settings)


def test_a_recipe_with_texts_is_read_back_from_yaml(tmp_path: Path) -> None:
    written = recipe(calibration={"texts": {"one": "a.txt", "two": "b.txt"}, "samples": 7})
    (tmp_path / "recipe.yaml").write_text(to_yaml(written))
    assert load(MergeRecipe, tmp_path / "recipe.yaml") == written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"calibration": {"texts": {"three": "a.txt"}}},
            "calibration.texts: 'three' is no source; known: base, one, two",
        ),
        ({"calibration": {"texts": {}}}, "names no file"),
        (
            {"calibration": {"texts": "a.txt"}, "tokenizer": {"source": "union"}},
            "there can be no tokenizer",
        ),
    ],
    ids=["a name that no source has", "no file", "a tokenizer"],
)
def test_texts_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


NESTED = {"recipe": {"base": "base", "sources": ["one"], "operator": "linear"}, "name": "inner"}


@pytest.mark.parametrize(
    ("operator", "fields", "message"),
    [
        (
            "fisher",
            {},
            "calibration: is missing; fisher needs the fisher and fisher_norm of models on texts;",
        ),
        (
            "aim",
            {"parameters": {"weight": 1}},
            "calibration: is missing; aim needs the activation of models",
        ),
        (
            "regmean",
            {"calibration": {"texts": {"one": "a.txt"}}},
            "calibration.texts: has no file for two, which is measured",
        ),
        (
            "aim",
            {"calibration": {"texts": {"one": "a.txt"}}},
            "calibration.texts: has no file for base, which is measured",
        ),
        (
            "fim",
            {"calibration": {"texts": {"one": "a.txt", "two": "b.txt"}}},
            "calibration.texts: has no file for base, which is measured",
        ),
        (
            "sens_merging",
            {"calibration": {"texts": "a.txt"}, "sources": ["two", NESTED]},
            "must be models; export this one first, or say which model it is measured_as",
        ),
        (
            "aim",
            {"calibration": {"texts": "a.txt"}, "base_recipe": NESTED["recipe"]},
            "base_recipe: aim measures the base, which must be a model",
        ),
    ],
)
def test_what_an_operator_cannot_measure_is_one_line(
    operator: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        check_operator(recipe(operator, **fields))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_recipe_that_is_measured_as_a_model_may_be_merged() -> None:
    sources = ["two", {**NESTED, "measured_as": "one"}]
    found = recipe("fisher", sources=sources, calibration={"texts": "a.txt"})
    assert check_operator(found).name == "fisher"
    other = recipe("fisher", sources=["two", NESTED], calibration={"texts": "a.txt"})
    assert digest(found) != digest(other)


def test_what_is_measured_instead_is_found_from_anywhere(tmp_path: Path) -> None:
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    found = recipe(sources=["two", {**NESTED, "measured_as": "one"}])
    anywhere = with_absolute_paths(found, tmp_path)
    assert [each.measured_as for each in anywhere.sources] == [None, str(tmp_path / "one")]


def test_fim_measures_the_base_alone() -> None:
    check_operator(recipe("fim", calibration={"texts": {"base": "a.txt"}}))


def test_a_merge_may_be_relaxed_that_is_a_recipe() -> None:
    check_operator(recipe("aim", sources=[NESTED], calibration={"texts": {"base": "a.txt"}}))


def test_operators_that_measure_nothing_need_no_texts() -> None:
    check_operator(recipe("linear"))
