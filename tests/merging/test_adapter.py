"""A merged adapter is one that PEFT and we load, and equals the merge of the adapted models."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_family import build_family

from evomerge.checkpoints import AdaptedModel, ModelFolder
from evomerge.errors import MergeError, ModelError, OutputError
from evomerge.merging.adapter import export_adapter
from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "base_model.model.model.layers"
Q0, UP1, DOWN0 = (
    f"model.layers.{module}.weight"
    for module in ("0.self_attn.q_proj", "1.mlp.up_proj", "0.mlp.down_proj")
)


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    """The tiny family with `other`, an adapter of another rank on partly other modules."""
    folder = tmp_path_factory.mktemp("family") / "models"
    folder.mkdir()
    build_family(folder)
    rng = generator(5, "other")
    shapes = {"0.self_attn.q_proj": (32, 32), "0.mlp.down_proj": (32, 48)}
    tensors = {}
    for module, (rows, columns) in shapes.items():
        tensors[f"{PREFIX}.{module}.lora_A.weight"] = torch.randn(2, columns, generator=rng)
        tensors[f"{PREFIX}.{module}.lora_B.weight"] = torch.randn(rows, 2, generator=rng) * 0.1
    (folder / "other").mkdir()
    save_file(tensors, folder / "other/adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "base_model_name_or_path": "base"}
    settings["target_modules"] = ["q_proj", "down_proj"]
    (folder / "other/adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def adapted(family) -> list[AdaptedModel]:
    base = ModelFolder(family / "base")
    return [AdaptedModel(base, family / name) for name in ("lora", "other")]


def update(model: AdaptedModel, name: str) -> torch.Tensor:
    """An update written out in full."""
    found = model.low_rank(name)
    if found is None:
        return torch.zeros(model.headers[name].shape)
    b, a, scaling = found
    return b @ a * scaling


def test_the_merged_adapter_adds_the_weighted_updates(adapted, family, tmp_path):
    export_adapter(adapted, tmp_path / "out", weights=[0.5, 2.0])
    merged = AdaptedModel(ModelFolder(family / "base"), tmp_path / "out")
    for name in merged.headers:
        expected = update(adapted[0], name) * 0.5 + update(adapted[1], name) * 2
        assert torch.allclose(update(merged, name), expected, rtol=0, atol=1e-5), name
    changed = {name for name in merged.headers if merged.low_rank(name) is not None}
    assert {Q0, UP1, DOWN0} <= changed
    assert len(changed) == 5
    assert merged.declared_base == "base"


def test_peft_loads_it_and_merges_to_the_same_weights(adapted, family, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    export_adapter(adapted, tmp_path / "out", weights=[1.0, 1.0], operator="ties")
    merged = AdaptedModel(ModelFolder(family / "base"), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(family / "base", dtype=torch.float32)
    weights = PeftModel.from_pretrained(model, tmp_path / "out").merge_and_unload().state_dict()
    for name in merged.headers:
        assert torch.equal(merged.read(name).float(), weights[name]), name
    assert not torch.equal(weights[Q0], ModelFolder(family / "base").read(Q0).float())


def test_all_modules_have_the_rank_of_the_largest(adapted, tmp_path):
    export_adapter(adapted, tmp_path / "out", weights=[1.0, 1.0])
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")
    ranks = {tensor.shape["lora_B" in name] for name, tensor in tensors.items()}
    assert ranks == {4 + 2}
    config = json.loads((tmp_path / "out/adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"]) == (6, 6)


def test_parameters_reach_the_operator(adapted, tmp_path):
    settings = {"scale": 3.0}
    export_adapter(adapted, tmp_path / "out", weights=[1.0, 0.0], arguments=settings)
    merged = AdaptedModel(adapted[0].base, tmp_path / "out")
    expected = update(adapted[0], UP1) * 3
    assert torch.allclose(update(merged, UP1), expected, rtol=0, atol=1e-5)


def test_a_base_without_the_decoders_name_still_gives_peft_its_modules(adapted, family, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(family / "base", base)
    file = base / "model.safetensors"
    short = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    save_file(short, file, {"format": "pt"})
    renamed = [AdaptedModel(ModelFolder(base), each.adapter) for each in adapted]
    export_adapter(renamed, tmp_path / "renamed", weights=[1.0, 1.0])
    export_adapter(adapted, tmp_path / "out", weights=[1.0, 1.0])
    files = [(tmp_path / each / "adapter_config.json").read_bytes() for each in ("renamed", "out")]
    assert files[0] == files[1]


def test_adapters_of_different_bases_are_refused(adapted, family, tmp_path):
    other = AdaptedModel(ModelFolder(family / "one"), family / "other")
    with pytest.raises(ModelError, match=r"different bases cannot be merged: .*base.*one"):
        export_adapter([adapted[0], other], tmp_path / "out", weights=[1.0, 1.0])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_taken_is_left_alone(adapted, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        export_adapter(adapted, tmp_path, weights=[1.0, 1.0])
    assert [file.name for file in tmp_path.iterdir()] == ["note"]


def test_a_place_that_cannot_be_written_is_named(adapted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"out: cannot be written: .*file is not a folder"):
        export_adapter(adapted, tmp_path / "file/out", weights=[1.0, 1.0])


def test_a_tensor_that_cannot_be_merged_is_named(adapted, tmp_path):
    with pytest.raises(MergeError, match=r"tensor model\.layers\.0\..*: operator 'linear': needs"):
        export_adapter(adapted, tmp_path / "out", weights=[1.0, 1.0], operator="linear")


def test_a_merge_that_overflows_is_refused(adapted, tmp_path):
    with pytest.raises(MergeError, match=r"tensor model\..*: the result has NaN or infinite"):
        export_adapter(adapted, tmp_path / "out", weights=[1e39, 1.0])
    assert not (tmp_path / "out").exists()
