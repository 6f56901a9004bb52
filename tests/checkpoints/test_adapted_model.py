"""A checkpoint with a LoRA adapter reads as what PEFT's merge gives in float32, bit for bit."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import AdaptedModel, Checkpoint, ModelFolder
from evomerge.errors import ModelError

Q0 = "model.layers.0.self_attn.q_proj"
TENSORS = "adapter_model.safetensors"


def train(base: Path, out: Path, **settings: Any) -> Path:
    """Save an adapter over `base` as PEFT does, with random values in both halves."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    defaults = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 10}
    adapted = get_peft_model(model, LoraConfig(**(defaults | settings)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(out)
    return out


def merge_with_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT corrects fan_in_fan_out for Conv1D and says so
        return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def agrees_with_peft(base: Path, adapter: Path) -> AdaptedModel:
    adapted = AdaptedModel(ModelFolder(base), adapter)
    expected = merge_with_peft(base, adapter)
    for name in adapted.headers:
        value = adapted.read(name).to(torch.float32)
        assert torch.equal(value, expected[name]), name
        assert adapted.headers[name].shape == tuple(value.shape)
    return adapted


@pytest.fixture(scope="module")
def trained(llama_folder, tmp_path_factory) -> Path:
    """An adapter on q_proj of the tiny Llama; read-only."""
    return train(
        llama_folder, tmp_path_factory.mktemp("adapters") / "q", target_modules=["q_proj"]
    )


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    """A copy of the adapter to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def refuses(base: Checkpoint, adapter: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        AdaptedModel(base, adapter)
    assert "\n" not in str(caught.value)


def test_adapting_linear_layers_equals_peft(llama_folder, tmp_path):
    targets = ["q_proj", "v_proj", "down_proj", "lm_head"]
    adapter = train(llama_folder, tmp_path / "a", target_modules=targets)
    adapted = agrees_with_peft(llama_folder, adapter)
    changed = [name for name in adapted.headers if adapted.low_rank(name) is not None]
    assert len(changed) == 7


def test_patterns_for_rank_and_alpha_equal_peft(llama_folder, tmp_path):
    adapter = train(
        llama_folder,
        tmp_path / "a",
        target_modules=["q_proj", "k_proj", "up_proj"],
        rank_pattern={"k_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
        alpha_pattern={r"^model.layers.0.self_attn.k_proj": 3, "up_proj": 5},
    )
    agrees_with_peft(llama_folder, adapter)


def test_rank_stabilised_scaling_equals_peft(llama_folder, tmp_path):
    adapter = train(llama_folder, tmp_path / "a", target_modules="all-linear", use_rslora=True)
    agrees_with_peft(llama_folder, adapter)


def test_a_transposed_layer_equals_peft(save_gpt2, tmp_path):
    base = save_gpt2(tmp_path / "gpt2")
    targets = ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]
    adapter = train(base, tmp_path / "a", target_modules=targets, fan_in_fan_out=True)
    agrees_with_peft(base, adapter)


def test_a_transposed_layer_that_is_not_declared_equals_peft(save_gpt2, tmp_path, edit_json):
    base = save_gpt2(tmp_path / "gpt2")
    settings = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    adapter = train(base, tmp_path / "a", **settings)
    edit_json(adapter / "adapter_config.json", fan_in_fan_out=False)
    agrees_with_peft(base, adapter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base_and_adapter_equal_peft(llama_folder, trained, tmp_path, dtype):
    base = Path(shutil.copytree(llama_folder, tmp_path / "base"))
    adapter = Path(shutil.copytree(trained, tmp_path / "adapter"))
    for file in (base / "model.safetensors", adapter / TENSORS):
        halved = {n: t.to(getattr(torch, dtype)) for n, t in load_file(file).items()}
        save_file(halved, file, {"format": "pt"})
    adapted = agrees_with_peft(base, adapter)
    assert adapted.headers[f"{Q0}.weight"].dtype == torch.float32
    assert adapted.headers[f"{Q0}.weight"].nbytes == 32 * 32 * 4
    assert adapted.headers["model.norm.weight"].dtype == getattr(torch, dtype)


def test_the_low_rank_factors_are_given(llama, adapter):
    adapted = AdaptedModel(llama, adapter)
    update = adapted.low_rank(f"{Q0}.weight")
    assert update is not None
    b, a, scaling = update
    assert (b.shape, a.shape, scaling) == ((32, 4), (4, 32), 2.5)
    stored = load_file(adapter / TENSORS)
    assert torch.equal(b, stored[f"base_model.model.{Q0}.lora_B.weight"])
    assert adapted.low_rank("model.norm.weight") is None


def test_what_is_not_adapted_is_the_bases_own(llama, adapter):
    adapted = AdaptedModel(llama, adapter)
    name = "model.norm.weight"
    assert adapted.read(name).data_ptr() == llama.read(name).data_ptr()
    assert adapted.headers[name] == llama.headers[name]
    assert adapted.folder == llama.folder
    assert adapted.config == llama.config
    assert list(adapted.headers) == list(llama.headers)


def test_the_base_on_disk_and_in_memory_stays_as_it_was(llama, adapter):
    before = llama.read(f"{Q0}.weight").clone()
    AdaptedModel(llama, adapter).read(f"{Q0}.weight")
    assert torch.equal(llama.read(f"{Q0}.weight"), before)


def test_adapters_may_be_stacked(llama, adapter):
    once = AdaptedModel(llama, adapter)
    twice = AdaptedModel(once, adapter)
    b, a, scaling = once.low_rank(f"{Q0}.weight") or pytest.fail("not adapted")
    expected = once.read(f"{Q0}.weight") + (b @ a) * scaling
    assert torch.equal(twice.read(f"{Q0}.weight"), expected)


def test_names_and_the_declared_base_are_given(llama_folder, llama, adapter):
    adapted = AdaptedModel(llama, adapter)
    assert adapted.reference == f"{llama_folder}+{adapter}"
    assert adapted.declared_base == str(llama_folder)
    assert AdaptedModel(llama, adapter, reference="a+b").reference == "a+b"
    assert "a+b" in repr(AdaptedModel(llama, adapter, reference="a+b"))


def test_an_unknown_tensor_of_an_adapted_model_is_refused(llama, adapter):
    with pytest.raises(ModelError, match="has no tensor 'nothing'"):
        AdaptedModel(llama, adapter).read("nothing")


def test_the_identity_knows_base_and_adapter(llama, adapter, edit_json):
    identity = AdaptedModel(llama, adapter).identity()
    assert AdaptedModel(llama, adapter).identity() == identity != llama.identity()
    edit_json(adapter / "adapter_config.json", lora_alpha=11)
    assert AdaptedModel(llama, adapter).identity() != identity


def test_a_base_saved_without_the_decoders_name_is_matched(save_gpt2, tmp_path):
    base = save_gpt2(tmp_path / "gpt2")
    adapter = train(base, tmp_path / "a", target_modules=["c_attn"], fan_in_fan_out=True)
    expected = AdaptedModel(ModelFolder(base), adapter).read("transformer.h.0.attn.c_attn.weight")
    file = base / "model.safetensors"
    short = {n.removeprefix("transformer."): t for n, t in load_file(file).items()}
    save_file(short, file, {"format": "pt"})
    adapted = AdaptedModel(ModelFolder(base), adapter)
    assert torch.equal(adapted.read("h.0.attn.c_attn.weight"), expected)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA'"),
        ({"use_dora": True}, "has DoRA; merge it with PEFT"),
        ({"bias": "all"}, "bias is 'all', only 'none'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["experts.w1"]}, "target_parameters"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"loftq_config": {"bits": 4}}, "a quantised base"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base too"),
        ({"arrow_config": {"top_k": 3}}, "'arrow_config' is set, .* not known"),
        ({"some_future_variant": True}, "'some_future_variant' is set"),
        ({"r": 0}, "r: expected an integer of at least 1, found 0"),
        ({"r": True}, "r: expected an integer"),
        ({"lora_alpha": "a lot"}, "lora_alpha: expected a finite number, found 'a lot'"),
        ({"lora_alpha": 10**400}, "lora_alpha: expected a finite number"),
        ({"rank_pattern": [1]}, "rank_pattern must map"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has an invalid regular expression"),
        ({"rank_pattern": {"q_proj": 5}}, "do not have rank 5"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set, but a model of type 'llama'"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(llama, adapter, edit_json, settings, match):
    edit_json(adapter / "adapter_config.json", **settings)
    refuses(llama, adapter, match)


def test_an_unknown_setting_without_value_is_harmless(llama, adapter, edit_json):
    edit_json(adapter / "adapter_config.json", some_future_variant=False)
    AdaptedModel(llama, adapter)


def respell(adapter: Path, old: str, new: str) -> None:
    """Rename tensors of an adapter."""
    tensors = {n.replace(old, new): t for n, t in load_file(adapter / TENSORS).items()}
    save_file(tensors, adapter / TENSORS, {"format": "pt"})


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("q_proj.lora_A.weight", "q_proj.lora_magnitude_vector", "belongs to DoRA"),
        ("q_proj.lora_A.weight", "lora_embedding_A", "updates an embedding"),
        ("base_model.model.", "", "is none of a PEFT adapter"),
        ("self_attn", "attention", "2 adapted modules are not in .*attention.q_proj.*belongs to"),
    ],
)
def test_tensors_that_do_not_belong_are_named(llama, adapter, old, new, match):
    respell(adapter, old, new)
    refuses(llama, adapter, match)


def test_a_vocabulary_layer_that_was_trained_whole_is_refused(llama, llama_folder, tmp_path):
    adapter = train(llama_folder, tmp_path / "a", target_modules=["lm_head"])
    tensors = load_file(adapter / TENSORS)
    tensors["base_model.model.lm_head.base_layer.weight"] += 1
    save_file(tensors, adapter / TENSORS)
    refuses(llama, adapter, "holds a whole tensor 'lm_head.weight' that is not the one of")


def test_a_whole_tensor_that_the_base_lacks_is_refused(llama, adapter):
    tensors = load_file(adapter / TENSORS)
    tensors["base_model.model.classifier.weight"] = torch.zeros(2)
    save_file(tensors, adapter / TENSORS)
    refuses(llama, adapter, "holds a whole tensor 'classifier.weight'")


def test_half_an_update_is_refused(llama, adapter):
    tensors = load_file(adapter / TENSORS)
    del tensors[f"base_model.model.{Q0}.lora_A.weight"]
    save_file(tensors, adapter / TENSORS)
    refuses(llama, adapter, "'model.layers.0.self_attn.q_proj' has only lora_B.weight")


def test_an_adapter_that_updates_nothing_is_refused(llama, adapter):
    save_file({}, adapter / TENSORS)
    refuses(llama, adapter, "updates no linear layer")


def test_an_update_of_another_shape_is_refused(llama, adapter):
    tensors = load_file(adapter / TENSORS)
    tensors[f"base_model.model.{Q0}.lora_B.weight"] = torch.zeros(48, 4)
    save_file(tensors, adapter / TENSORS)
    refuses(llama, adapter, r"updates shape \(48, 32\), but .* has \(32, 32\)")


def test_a_quantised_adapter_is_refused(llama, adapter):
    tensors = {n: t.to(torch.int8) for n, t in load_file(adapter / TENSORS).items()}
    save_file(tensors, adapter / TENSORS)
    refuses(llama, adapter, r"is quantised \(torch.int8\)")


def test_a_pickled_adapter_is_refused(llama, adapter):
    (adapter / TENSORS).rename(adapter / "adapter_model.bin")
    refuses(llama, adapter, "only a pickle; pickle not accepted")
    (adapter / "adapter_model.bin").unlink()
    refuses(llama, adapter, "no adapter_model.safetensors")


def test_an_adapter_without_config_is_refused(llama, adapter):
    (adapter / "adapter_config.json").write_text(json.dumps([]))
    refuses(llama, adapter, "expected a JSON object")
    (adapter / "adapter_config.json").unlink()
    refuses(llama, adapter, "adapter_config.json: no such file")
