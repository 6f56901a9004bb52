"""Promise: a lineage is one mergekit document for each merge in it, or refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from recipe.mergekit_lineage_cases import ARC, ARITHMETIC, IN_FLOAT16, LINEAGES, PARENT, inside
from tiny_family import build_family, load_tensors

from evomerge.errors import RecipeError
from evomerge.layout import layer_count
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.digest import digest
from evomerge.recipe.lineage import ancestry
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import from_mergekit
from evomerge.run.merges.mergekit_text import mergekit_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_family(folder, layers=3)
    return folder


@pytest.fixture
def library(models: Path) -> SourceLibrary:
    return SourceLibrary(models)


def make(document: dict[str, Any]) -> MergeRecipe:
    return MergeRecipe.model_validate(document)


def documents(text: str) -> list[dict[str, Any]]:
    return [document.data for document in yaml.parse_all(text, "m.yaml")]


def read(text: str, library: SourceLibrary) -> MergeRecipe:
    layers = layer_count(library.model("base").headers)
    return from_mergekit(yaml.parse_all(text, "m.yaml"), lambda _: layers).recipe


def merged(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> dict[str, Tensor]:
    export_checkpoint(recipe, library, out)
    return load_tensors(out)


def assert_equal(ours: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert ours.keys() == others.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == others[name].dtype, name
        assert torch.equal(tensor, others[name]), name


def test_every_merge_is_one_document_after_those_that_it_names(library: SourceLibrary) -> None:
    parent, arithmetic, child = documents(mergekit_text(make(ARC), library)[0])
    assert parent["name"] == f"stage-{digest(make(PARENT))[:12]}"
    assert arithmetic["name"] == f"stage-{digest(make(ARITHMETIC))[:12]}"
    assert [entry["model"] for entry in arithmetic["models"]] == [parent["name"], "three", "base"]
    assert "name" not in child
    assert child["base_model"] == arithmetic["name"]


def test_each_document_stores_what_its_recipe_stores(library: SourceLibrary) -> None:
    recipe = make(LINEAGES["a lineage stored in another dtype"].recipe or {})
    found = [each["out_dtype"] for each in documents(mergekit_text(recipe, library)[0])]
    assert found == ["float16", "bfloat16"]


def test_a_dtype_is_handed_on_by_the_stage_that_is_measured_from(library: SourceLibrary) -> None:
    child = make(ARITHMETIC | {"base_recipe": IN_FLOAT16})
    assert documents(mergekit_text(child, library)[0])[-1]["out_dtype"] == "float16"


@pytest.mark.parametrize("inner", [PARENT, IN_FLOAT16], ids=["bfloat16", "float16"])
def test_a_merge_inside_another_is_rounded_as_if_it_were_stored(
    inner: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    child = make(ARITHMETIC | {"sources": [inside(inner), "three"]})
    library = SourceLibrary(models)
    export_checkpoint(make(inner), library, tmp_path / "inner")
    in_steps = make(ARITHMETIC | {"sources": [str(tmp_path / "inner"), "three"]})
    assert_equal(
        merged(child, library, tmp_path / "at once"),
        merged(in_steps, library, tmp_path / "in steps"),
    )


@pytest.mark.parametrize("name", LINEAGES)
def test_the_file_is_read_back_as_a_recipe_of_the_same_tensors(
    name: str, models: Path, tmp_path: Path
) -> None:
    case = LINEAGES[name]
    build_family(tmp_path / "deep", layers=4, tied=False, dtype="float32")
    library = SourceLibrary(models if case.family == "shallow" else tmp_path / "deep")
    recipe = make(case.recipe or {})
    text, notes = mergekit_text(recipe, library)
    again = read(text, library)
    assert digest(again) != digest(recipe)
    assert any("of another digest" in note for note in notes)
    assert_equal(
        merged(recipe, library, tmp_path / "ours"), merged(again, library, tmp_path / "again")
    )


def test_what_was_read_is_written_and_read_as_itself(library: SourceLibrary) -> None:
    once = read(mergekit_text(make(ARC), library)[0], library)
    twice = read(mergekit_text(once, library)[0], library)
    assert digest(twice) == digest(once)
    assert len(ancestry([once])) == len(ancestry([make(ARC)])) == 2


def test_config_and_tokenizer_of_stages_come_from_their_base(library: SourceLibrary) -> None:
    assert not any("config" in note for note in mergekit_text(make(ARC), library)[1])
    other = PARENT | {"base": "three"}
    notes = mergekit_text(make(ARC | {"sources": [inside(other), "two"]}), library)[1]
    assert "mergekit takes config and tokenizer from three" in notes


def test_the_notes_say_which_program_the_file_is_for(library: SourceLibrary) -> None:
    assert mergekit_text(make(PARENT), library)[1] == ()
    assert "give this file to mergekit-multi" in mergekit_text(make(ARITHMETIC), library)[1][0]


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [("split_slerp", {"t": 0.3, "split": 0.5}), ("evolver", {"mutation": 0.4})],
)
def test_an_ancestor_without_counterpart_is_named_with_what_to_do(
    operator: str, parameters: dict[str, float], library: SourceLibrary
) -> None:
    sources = ["one", "two"]
    ancestor = ARITHMETIC | {"operator": operator, "parameters": parameters, "sources": sources}
    child = make(ARITHMETIC | {"sources": [inside(ARITHMETIC | {"sources": [inside(ancestor)]})]})
    known = digest(make(ancestor))[:12]
    message = (
        rf"^sources\.0\.recipe\.sources\.0\.recipe \({known}\): mergekit has no operator "
        rf"{operator}; export that merge as a checkpoint and name its folder in place of it$"
    )
    with pytest.raises(RecipeError, match=message):
        mergekit_text(child, library)


def test_a_parent_that_is_there_twice_is_refused(library: SourceLibrary) -> None:
    twice = [inside(PARENT, name="x"), inside(PARENT, name="y")]
    with pytest.raises(RecipeError, match="mergekit gives every entry of stage-"):
        mergekit_text(make(ARITHMETIC | {"sources": twice}), library)
