"""Promise: the document of an inspection holds what was measured, and figures follow from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from relatives import plant_relatives

from evomerge.errors import RecipeError
from evomerge.reporting.inspection import conflict_of, figures, inspect_models, signed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def planted(family: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The family with a copy and a mirror."""
    folder = tmp_path_factory.mktemp("relatives")
    plant_relatives(family, folder)
    models = ["one", str(folder / "copy"), str(folder / "mirror"), f"base+{family / 'lora'}"]
    return inspect_models(models, None, family)


def test_a_planted_copy_and_a_planted_conflict_are_expected(planted: dict[str, Any]) -> None:
    said = "\n".join(planted["expectations"])
    assert "copy and one are the same model" in said
    assert "one and mirror pull in opposite directions in layer 1 (up to 100%" in said
    assert "mirror leaves layer 0, embed_tokens and norm as the base has it" in said


def test_the_base_is_the_one_that_the_adapter_stands_on(planted: dict[str, Any]) -> None:
    assert planted["base"] == "base"
    assert [source["name"] for source in planted["sources"]] == ["one", "copy", "mirror", "lora"]


def test_the_document_keeps_its_contract(planted: dict[str, Any]) -> None:
    assert planted.keys() == {
        "version",
        "base",
        "sources",
        "findings",
        "expectations",
        "cosine",
        "pearson",
        "euclid",
        "shared",
        "conflict",
        "weighted_conflict",
        "layers",
        "tensors",
        "left_out",
    }
    assert json.loads(json.dumps(planted, allow_nan=False)) == planted
    assert [layer["layer"] for layer in planted["layers"]] == ["embed_tokens", "0", "1", "norm"]
    assert len(planted["tensors"]) == 2 + 2 * 9


def test_kinship_is_in_the_order_of_the_sources(planted: dict[str, Any]) -> None:
    cosine = planted["cosine"]
    assert cosine[0][1] == pytest.approx(1)
    assert cosine[0][2] < -0.3
    assert cosine[2][0] == cosine[0][2]
    assert planted["euclid"][0][1] == 0


def test_a_conflict_without_shared_changes_is_none(planted: dict[str, Any]) -> None:
    outside, first, second, _ = planted["layers"]
    assert conflict_of(outside, 0, 2) is None
    assert conflict_of(first, 0, 2) is None
    assert conflict_of(second, 0, 2) == pytest.approx(1)


def test_figures_are_valid_and_show_every_source(planted: dict[str, Any]) -> None:
    found = figures(planted)
    assert found.keys() == {"kinship.svg", "norms.svg", "conflict.svg"}
    for svg in found.values():
        words = [element.text for element in ET.fromstring(svg).iter() if element.text]
        assert any("mirror" in word for word in words)


def test_a_cosine_that_rounds_to_zero_has_no_sign() -> None:
    assert [signed(value) for value in (-0.004, -0.006, 1)] == ["0.00", "-0.01", "1.00"]


def test_one_source_has_no_conflict_to_draw(family: Path) -> None:
    assert figures(inspect_models(["one"], "base", family)).keys() == {"kinship.svg", "norms.svg"}


def test_a_family_that_did_not_move_can_be_drawn(family: Path) -> None:
    document = inspect_models(["base", "base"], "base", family)
    assert [source["name"] for source in document["sources"]] == ["base#1", "base#2"]
    assert len(figures(document)) == 3


@pytest.mark.parametrize(
    ("models", "found"),
    [(["one", "two"], "no MODEL is an adapter"), (["base+{}", "one+{}"], "different models")],
)
def test_a_base_that_cannot_be_told_is_asked_for(
    family: Path, models: list[str], found: str
) -> None:
    models = [model.format(family / "lora") for model in models]
    with pytest.raises(RecipeError, match=f"--base is missing and .*{found}"):
        inspect_models(models, None, family)
