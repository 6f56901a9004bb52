"""`merge` takes recipe files of ours and of mergekit's, and says what it did."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import CompatibilityError, EvomergeError, RecipeError
from evomerge.run.merges.merge import merge_file, read_file

FRANKEN = """
merge_method: passthrough
slices:
  - sources: [{model: base, layer_range: [0, 2]}]
  - sources: [{model: one, layer_range: [1, 2]}]
"""
OURS = "base: base\nsources: [one]\noperator: linear\n"


@pytest.fixture
def file(tmp_path, family, monkeypatch):
    """Write a recipe beside which the family's models are found."""
    monkeypatch.chdir(family)

    def write(text):
        path = family / "recipe.yaml" if text.startswith("base:") else tmp_path / "m.yaml"
        path.write_text(text)
        return path

    yield write
    (family / "recipe.yaml").unlink(missing_ok=True)


def test_layers_of_two_models_are_stacked(file, family, tmp_path):
    notes = merge_file(file(FRANKEN), tmp_path / "out").notes
    assert any("no base_model, so config and tokenizer are those of base" in n for n in notes)
    merged, one = (load_file(f / "model.safetensors") for f in (tmp_path / "out", family / "one"))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(merged[name.format(2)], one[name.format(1)])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert (tmp_path / "out" / "mergekit_config.yml").exists()


def test_stages_need_no_folders(file, tmp_path):
    text = (
        "merge_method: linear\nmodels: [{model: twice}]\nparameters: {weight: 1}\n---\nname: twice"
    )
    merge_file(file(text + FRANKEN), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.yaml", "out"]


def test_mergekit_s_bytes_are_asked_for_with_a_seed(file):
    read = read_file(file(FRANKEN), compat=True, seed=3)
    assert read.recipe.mergekit_compat is not None
    assert read.recipe.seed == 3


@pytest.mark.parametrize(
    ("options", "name"), [({"compat": True}, "--mergekit-compat"), ({"seed": 0}, "--seed")]
)
def test_options_for_mergekit_s_recipes_mean_nothing_for_ours(options, name, file):
    with pytest.raises(RecipeError, match=f"is no mergekit recipe, so {name} means nothing here"):
        read_file(file(OURS), **options)


def test_two_documents_of_ours_are_refused(file):
    with pytest.raises(RecipeError, match="a second document starts here"):
        read_file(file(OURS + "---\n" + OURS))


def test_models_inside_stages_are_checked(file, family, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in (family / "one").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    text = (
        "merge_method: linear\nmodels: [{model: x}]\nparameters: {weight: 1}\n---\n"
        f"name: x\nmerge_method: linear\nmodels: [{{model: base}}, {{model: {other}}}]\n"
        "parameters: {weight: 1}\n"
    )
    with pytest.raises(CompatibilityError, match="rms_norm_eps differs"):
        merge_file(file(text), tmp_path / "out")


def test_a_stack_of_a_stack_is_written(file, family, tmp_path):
    text = (
        "name: a"
        + FRANKEN
        + (
            "---\nmerge_method: passthrough\nslices:\n"
            "  - sources: [{model: a, layer_range: [2, 3]}]\n"
            "  - sources: [{model: a, layer_range: [0, 1]}]\n"
        )
    )
    merge_file(file(text), tmp_path / "out")
    merged, one = (load_file(f / "model.safetensors") for f in (tmp_path / "out", family / "one"))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(merged[name.format(0)], one[name.format(1)])
    again = tmp_path / "again"
    merge_file(tmp_path / "out" / "mergekit_config.yml", again)
    theirs = load_file(again / "model.safetensors")
    assert all(torch.equal(theirs[key], tensor) for key, tensor in merged.items())


MASKED = """
merge_method: dare_linear
base_model: base
models: [{model: one}, {model: ./two}]
parameters: {weight: 0.5, density: 0.5}
tokenizer: {source: ./two, tokens: {<s>: {source: {kind: model_token, model: one, token_id: 1}}}}
"""
NESTED = """
name: inner
merge_method: dare_linear
base_model: base
models: [{model: one}]
parameters: {weight: 0.5, density: 0.5}
---
merge_method: dare_linear
base_model: base
models: [{model: inner}, {model: two}]
parameters: {weight: 0.5, density: 0.5}
"""


@pytest.mark.parametrize("text", [MASKED, NESTED, OURS])
def test_the_recipe_beside_a_model_makes_it_again_from_any_place(
    text, file, tmp_path, monkeypatch
):
    merge_file(file(text), tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    merge_file(tmp_path / "out" / "evomerge.yaml", tmp_path / "again")
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")
    )
    assert first == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OURS.replace("linear", "slerp"), "recipe.yaml: operator: slerp takes 2 sources, found 1"),
        (FRANKEN.replace("[0, 2]", "[0, 9]"), r"m.yaml: stack.0: layers \[0, 9\] of 0:base"),
    ],
)
def test_what_is_wrong_with_a_recipe_names_its_file(text, message, file, tmp_path):
    with pytest.raises(EvomergeError, match=message):
        merge_file(file(text), tmp_path / "out")
