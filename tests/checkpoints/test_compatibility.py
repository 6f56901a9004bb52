"""Every reason why models do not fit together is found at once, before any tensor is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import AdaptedModel, Finding, ModelFolder, check_family

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(llama_folder) -> ModelFolder:
    return ModelFolder(llama_folder, reference="base")


@pytest.fixture
def source(llama_folder, tmp_path) -> Path:
    """A copy of the base, to be made different."""
    return Path(shutil.copytree(llama_folder, tmp_path / "source"))


def check(base: ModelFolder, *folders: Path) -> list[Finding]:
    return check_family(base, [ModelFolder(f, reference=f.name) for f in folders])


def the_only(findings: list[Finding], severity: Literal["error", "warning"]) -> str:
    """Return the message of the single finding, which must be complete and of one line."""
    (finding,) = findings
    assert finding.severity == severity
    assert finding.remedy
    assert "\n" not in finding.message + finding.remedy
    return finding.message


def change_tensors(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / WEIGHTS) | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


def test_siblings_fit(base, source):
    change_tensors(source, {"model.norm.weight": torch.zeros(32)})
    assert check(base, source) == []


def test_shards_do_not_matter(base, sharded_folder):
    assert check(base, sharded_folder) == []


def test_findings_name_the_model_and_come_in_order(base, source, tmp_path, edit_json):
    second = Path(shutil.copytree(source, tmp_path / "second"))
    edit_json(source / "config.json", architectures=["QwenForCausalLM"], hidden_size=48)
    edit_json(second / "config.json", rms_norm_eps=0.5)
    findings = check(base, source, second)
    assert [(f.where, f.severity) for f in findings] == [
        ("source", "error"),
        ("source", "error"),
        ("second", "error"),
    ]
    assert findings[0].message.startswith("architectures differ: ['QwenForCausalLM'] against")


def test_missing_and_extra_tensors_are_counted_and_the_first_named(base, source):
    names = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("down", "gate", "up")]
    names.append("model.layers.1.self_attn.k_proj.weight")
    change_tensors(source, dict.fromkeys(names) | {"model.extra": torch.zeros(1)})
    missing, extra = check(base, source)
    first = ", ".join(map(repr, names[:3]))
    assert missing.message == f"lacks 4 tensors of base: {first} and 1 more"
    assert extra.message == "has 1 tensors that base lacks: 'model.extra'"


def test_other_shapes_are_listed(base, source):
    change_tensors(source, {"model.norm.weight": torch.zeros(33)})
    message = the_only(check(base, source), "error")
    assert message == (
        "1 tensors have other shapes than in base: 'model.norm.weight' (33,) against (32,)"
    )


def test_other_vocabulary_sizes_are_called_so(base, source):
    wider = torch.zeros(70, 32)
    change_tensors(source, {"model.embed_tokens.weight": wider, "lm_head.weight": wider.clone()})
    findings = check(base, source)
    assert [f.severity for f in findings] == ["error", "error"]
    assert "has 70 rows, 64 in base" in findings[0].message
    assert "resize" in findings[0].remedy


def test_an_embedding_of_another_width_is_no_matter_of_vocabulary(base, source):
    change_tensors(source, {"model.embed_tokens.weight": torch.zeros(64, 16)})
    assert "other shapes" in the_only(check(base, source), "error")


def test_float_dtypes_may_mix(base, source):
    halved = {n: t.to(torch.bfloat16) for n, t in load_file(source / WEIGHTS).items()}
    change_tensors(source, halved)
    findings = check(base, source)
    assert the_only(findings, "warning") == "dtype differs from base: bfloat16 against float32"
    assert "computes in float32" in findings[0].remedy


def test_integer_dtypes_may_not_mix(base, source):
    change_tensors(source, {"model.norm.weight": torch.zeros(32, dtype=torch.int8)})
    message = the_only(check(base, source), "error")
    assert "'model.norm.weight' int8 against float32" in message


@pytest.fixture
def tied(save_llama, tmp_path) -> Path:
    return save_llama(tmp_path / "tied", tie_word_embeddings=True)


def test_a_tied_and_an_untied_head_do_not_fit(base, tied):
    message = the_only(check(base, tied), "error")
    assert message == (
        "base has its own head ('lm_head.weight'), the head of tied is tied to its embedding"
    )
    other_way = check_family(ModelFolder(tied, reference="tied"), [base])
    assert the_only(other_way, "error") == message


def test_a_stored_copy_of_a_tied_head_is_only_a_warning(tied, tmp_path):
    copy = Path(shutil.copytree(tied, tmp_path / "copy"))
    change_tensors(copy, {"lm_head.weight": torch.zeros(64, 32)})
    findings = check(ModelFolder(tied), copy)
    assert "although its head is tied" in the_only(findings, "warning")


@pytest.mark.parametrize(
    ("changes", "severity", "match"),
    [
        ({"hidden_size": 48}, "error", "hidden_size differs: 48 against 32 in base"),
        ({"num_attention_heads": 8}, "error", "num_attention_heads differs: 8 against 4"),
        ({"num_key_value_heads": 4}, "error", "num_key_value_heads differs"),
        ({"rms_norm_eps": 0.5}, "error", "rms_norm_eps differs: 0.5 against 1e-06"),
        ({"hidden_act": "gelu"}, "error", "hidden_act differs: 'gelu' against 'silu'"),
        ({"max_position_embeddings": 99}, "warning", "max_position_embeddings differs"),
        ({"rope_theta": 7.0, "rope_parameters": None}, "error", "rope_theta differs: 7.0 against"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "error",
            "rope_theta differs: 500000.0 against 10000.0",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000}},
            "error",
            "rope type differs: 'linear' against 'default' in base",
        ),
    ],
)
def test_settings_that_change_the_computation_are_compared(
    base, source, edit_json, changes, severity, match
):
    edit_json(source / "config.json", **changes)
    assert match in the_only(check(base, source), severity)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": None},
        {"rope_parameters": None, "rope_theta": 10000},
        {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": None, "rope_scaling": {"type": "default"}},
        {"rope_parameters": "nonsense"},
        {"rms_norm_eps": None},
        {"head_dim": None, "hidden_act": None},
        {"num_key_value_heads": None},
        {"sliding_window": 16},
    ],
)
def test_a_setting_that_one_side_leaves_out_is_no_difference(base, source, edit_json, changes):
    edit_json(source / "config.json", **changes)
    assert check(base, source) == []


def test_scaling_is_the_same_in_old_and_new_spelling(llama_folder, tmp_path, edit_json):
    old, new = (Path(shutil.copytree(llama_folder, tmp_path / name)) for name in ("old", "new"))
    scaling = {"rope_type": "linear", "factor": 2.0}
    edit_json(new / "config.json", rope_parameters=scaling | {"rope_theta": 10000.0})
    old_scaling = {"type": "linear", "factor": 2.0, "rope_type": "linear"}
    edit_json(
        old / "config.json", rope_parameters=None, rope_scaling=old_scaling, rope_theta=10000.0
    )
    assert check(ModelFolder(new), old) == []


def test_another_factor_of_one_scaling_is_an_error(llama_folder, tmp_path, edit_json):
    one, other = (Path(shutil.copytree(llama_folder, tmp_path / n)) for n in ("one", "other"))
    for folder, factor in ((one, 2.0), (other, 4.0)):
        scaling = {"rope_type": "linear", "factor": factor, "rope_theta": 10000.0}
        edit_json(folder / "config.json", rope_parameters=scaling)
    message = the_only(check(ModelFolder(one), other), "error")
    assert "rope factor differs: 4.0 against 2.0" in message


def test_the_part_of_a_head_that_rotates_is_compared_in_both_spellings(
    llama_folder, tmp_path, edit_json
):
    old, new = (Path(shutil.copytree(llama_folder, tmp_path / name)) for name in ("old", "new"))
    edit_json(new / "config.json", rope_parameters={"partial_rotary_factor": 0.5})
    edit_json(old / "config.json", rope_parameters=None, rotary_pct=0.5)
    assert check(ModelFolder(new), old) == []
    edit_json(old / "config.json", rotary_pct=0.25)
    message = the_only(check(ModelFolder(new), old), "error")
    assert "partial_rotary_factor differs: 0.25 against 0.5" in message


def test_positions_by_type_of_layer_are_compared(llama_folder, tmp_path, edit_json):
    old, new = (Path(shutil.copytree(llama_folder, tmp_path / name)) for name in ("old", "new"))
    by_type = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    edit_json(new / "config.json", rope_parameters=by_type)
    flat: dict[str, Any] = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    edit_json(old / "config.json", rope_parameters=None, **flat)
    assert check(ModelFolder(new), old) == []
    edit_json(old / "config.json", rope_local_base_freq=5.0)
    assert "rope_local_base_freq differs" in the_only(check(ModelFolder(new), old), "error")


def test_the_decoder_of_a_model_with_vision_is_compared(source, edit_json, tmp_path):
    edit_json(source / "config.json", text_config={"hidden_size": 99})
    other = Path(shutil.copytree(source, tmp_path / "other"))
    edit_json(other / "config.json", text_config={"hidden_size": 98})
    message = the_only(check(ModelFolder(source), other), "error")
    assert "hidden_size differs: 98 against 99" in message


def test_another_vocabulary_is_an_error(base, source, save_tokenizer):
    save_tokenizer(source, ("world", "hello", "new"))
    message = the_only(check(base, source), "error")
    assert "4 tokens against 3 in base; 3 have another id" in message
    assert "'hello', 'new', 'world'" in message


def test_other_settings_of_one_vocabulary_are_a_warning(base, source, edit_json):
    edit_json(source / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert "same vocabulary as base" in the_only(check(base, source), "warning")


def test_a_missing_tokenizer_is_a_warning(base, source):
    (source / "tokenizer.json").unlink()
    assert "only one of base and this model" in the_only(check(base, source), "warning")


def test_tokenizers_that_tell_no_vocabulary_must_be_equal(llama_folder, tmp_path):
    one, other = (Path(shutil.copytree(llama_folder, tmp_path / n)) for n in ("one", "other"))
    for folder in (one, other):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    assert check(ModelFolder(one), other) == []
    (other / "tokenizer.model").write_bytes(b"another")
    assert "does not tell its vocabulary" in the_only(check(ModelFolder(one), other), "error")


def test_another_chat_template_is_a_warning(base, source):
    (source / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat template differs from that of base" in the_only(check(base, source), "warning")


def test_the_same_weights_twice_are_a_warning(base, source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    findings = check(base, source, tmp_path / "link")
    assert the_only(findings, "warning") == "has the same weights as source"
    assert the_only(check_family(base, [base]), "warning") == "has the same weights as base"


def save_adapter(folder: Path, declared_base: str | None) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": declared_base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{stem}.lora_A.weight": torch.ones(1, 32),
        f"{stem}.lora_B.weight": torch.ones(32, 1),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("declared", [None, "org/LLAMA", "/home/someone/llama/", "org/base"])
def test_an_adapter_of_the_base_fits(base, tmp_path, declared):
    adapted = AdaptedModel(base, save_adapter(tmp_path / "lora", declared))
    assert check_family(base, [adapted]) == []


def test_an_adapter_of_another_model_is_a_warning(base, tmp_path):
    adapted = AdaptedModel(base, save_adapter(tmp_path / "lora", "org/mistral"))
    message = the_only(check_family(base, [adapted]), "warning")
    assert message == "the adapter was trained on 'org/mistral' but is applied to base"
    assert the_only(check_family(adapted, []), "warning") == message


def test_an_adapter_twice_is_a_warning_but_two_adapters_are_not(base, tmp_path):
    one = AdaptedModel(base, save_adapter(tmp_path / "one", None), reference="one")
    again = AdaptedModel(base, tmp_path / "one", reference="again")
    two = AdaptedModel(base, save_adapter(tmp_path / "two", None), reference="two")
    assert the_only(check_family(base, [one, again, two]), "warning") == (
        "has the same weights as one"
    )


def test_an_adapter_changes_no_dtype_of_its_base(source, tmp_path):
    halved = {n: t.to(torch.bfloat16) for n, t in load_file(source / WEIGHTS).items()}
    change_tensors(source, halved)
    half = ModelFolder(source)
    adapted = AdaptedModel(half, save_adapter(tmp_path / "lora", None))
    assert check_family(half, [adapted]) == []
    assert check_family(adapted, [adapted.base]) == []
