"""What mergekit makes of an exported recipe is compared with ours, tensor by tensor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit_process import ORACLE
from safetensors.torch import load_file, save_file

from evomerge.errors import MergeError, RecipeError, VersionError
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.merges.verify import _difference, compare_with_mergekit

UP_IS_DOUBLE = {"value": 2, "tensor": "layers.1.mlp.up_proj"}
REST = {"value": 1}


def make(*sources: str, **fields: Any) -> MergeRecipe:
    return MergeRecipe.model_validate({"base": "base", "sources": sources} | fields)


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        ([1.0, 2.0], [1.0, 2.0], "t: equal"),
        ([1.0, 2.0], [1.0, 2.0 + 2.0**-22], "t: 1 ulps apart"),
        ([0.0], [-0.0], "t: equal"),
        ([2.0**-149], [-(2.0**-149)], "t: 2 ulps apart"),
        ([1.0], [[1.0]], "t: (torch.float32, (1,)) here, (torch.float32, (1, 1)) by mergekit"),
    ],
)
def test_the_distance_is_counted_in_numbers_of_the_dtype(ours, theirs, text):
    assert str(_difference("t", torch.tensor(ours), torch.tensor(theirs))) == text


def test_integers_are_compared_as_they_are():
    found = _difference("t", torch.tensor([-1, 5]), torch.tensor([1, 5]))
    assert found.ulps == 2


def test_a_python_without_mergekit_is_one_line(family, tmp_path):
    message = r"mergekit-yaml: is missing; install it beside that Python \(pip install mergekit==0"
    with pytest.raises(VersionError, match=message):
        compare_with_mergekit(
            make("one", operator="linear"), SourceLibrary(family), tmp_path / "p"
        )


def test_a_recipe_that_mergekit_cannot_express_is_not_tried(family):
    recipe = make("one", operator="consensus")
    with pytest.raises(RecipeError, match="mergekit has no operator consensus"):
        compare_with_mergekit(recipe, SourceLibrary(family), Path(os.__file__))


def test_every_tensor_of_either_side_is_compared(family, tmp_path):
    # A merge tool that always makes a copy of `one`, without a tensor and with another.
    one = load_file(family / "one" / "model.safetensors")
    one["extra"] = one.pop("model.norm.weight")
    (tmp_path / "copy").mkdir()
    save_file(one, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(family / "one" / "config.json", tmp_path / "copy")
    command = tmp_path / "mergekit-yaml"
    command.write_text(f'#!/bin/sh\ncp -r {tmp_path / "copy"} "$2"\n')
    command.chmod(0o755)
    recipe = make("one", operator="passthrough", parameters={"scale": [UP_IS_DOUBLE, REST]})
    compared = {
        each.name: each
        for each in compare_with_mergekit(recipe, SourceLibrary(family), tmp_path / "python")
    }
    assert compared["model.embed_tokens.weight"].is_equal
    assert str(compared["model.norm.weight"]) == "model.norm.weight: is not made by mergekit"
    assert str(compared["extra"]) == "extra: is not made here"
    # In bfloat16, a number and its double are 128 numbers apart.
    assert compared["model.layers.1.mlp.up_proj.weight"].ulps == 128


def test_a_failure_of_mergekit_is_one_line(family, tmp_path):
    command = tmp_path / "mergekit-yaml"
    command.write_text("#!/bin/sh\necho first >&2\necho no memory >&2\nexit 3\n")
    command.chmod(0o755)
    with pytest.raises(MergeError, match=r"^mergekit failed: no memory$"):
        compare_with_mergekit(
            make("one", operator="linear"), SourceLibrary(family), tmp_path / "python"
        )


def lineage() -> MergeRecipe:
    parent = {"base": "base", "sources": ["one", "two"], "operator": "linear"}
    return make({"recipe": parent}, "two", operator="ties", parameters={"weight": 0.5})


def test_a_lineage_is_given_to_the_program_for_several_documents(family, tmp_path):
    command = tmp_path / "mergekit-multi"
    command.write_text('#!/bin/sh\necho "$@" | tr " " "\\n" | grep -c "^--[io].*=/" >&2; exit 3\n')
    command.chmod(0o755)
    with pytest.raises(MergeError, match=r"^mergekit failed: 2$"):
        compare_with_mergekit(lineage(), SourceLibrary(family), tmp_path / "python")


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.skipif(ORACLE is None, reason="EVOMERGE_ORACLE names no python with mergekit")
def test_mergekit_merges_a_lineage_to_the_same_tensors(family):
    compared = compare_with_mergekit(lineage(), SourceLibrary(family))
    assert compared
    assert all(each.is_equal for each in compared)
