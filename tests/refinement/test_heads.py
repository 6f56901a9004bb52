"""Promise: a model's head gives the model's own logits, and what is not known is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_architectures import CAUSAL, EXPERTS, MULTIMODAL, SIZES, build
from torch import nn

from evomerge.errors import ModelError
from evomerge.refinement.heads import Head, head_of, last_hidden_states
from evomerge.refinement.losses.chunked import chunked_loss
from evomerge.refinement.losses.cross_entropy import CrossEntropy

SCALED = {"logits_scaling": 8.0, "logit_scale": 0.3, "lm_head_multiplier": 0.3}
CAPPED = {"final_logit_softcapping": 0.5}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **CAUSAL,
    **{
        name: (f"{name}ForCausalLM", f"{name}Config", SIZES | EXPERTS | SCALED)
        # HyperCLOVAX has the same name as Granite for its number, but multiplies.
        for name in ("Granite", "GraniteMoe", "Cohere", "Cohere2", "HyperCLOVAX", "VaultGemma")
    },
    "Gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SIZES | CAPPED),
    "Gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", SIZES | CAPPED),
    "Gemma3 sees": MULTIMODAL["Gemma3"],
    "Llava": MULTIMODAL["Llava"],
}
IDS = torch.arange(3, 27).reshape(2, 12)
LABELS = IDS.clone()
LABELS[:, :4] = -100


def model_of(name: str) -> Any:
    return build(*MODELS[name]).requires_grad_()


def chunked_cross_entropy(model: Any, head: Head) -> torch.Tensor:
    hidden = last_hidden_states(model, input_ids=IDS, attention_mask=torch.ones_like(IDS))
    following = LABELS.roll(-1, dims=1)
    following[:, -1] = -100
    rows = (following.flatten() != -100).nonzero()[:, 0]
    weights = torch.full((len(rows),), 1 / len(rows))
    loss = CrossEntropy(following.flatten()[rows])
    return chunked_loss(hidden.flatten(0, 1)[rows], head, loss, weights, 5)


@pytest.mark.parametrize("name", MODELS)
def test_cross_entropy_in_chunks_is_the_model_s_own_with_all_gradients(name: str) -> None:
    model = model_of(name)
    own = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=LABELS).loss
    own.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = chunked_cross_entropy(model, head_of(model))
    loss.backward()
    assert torch.allclose(loss, own, rtol=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        error = (gradient - expected[key]).abs().max()
        assert error <= 1e-5 * max(1e-2, float(expected[key].abs().max())), key


@pytest.mark.parametrize("name", ["Granite", "Cohere", "HyperCLOVAX", "Gemma2", "VaultGemma"])
def test_a_head_scales_and_caps_as_the_config_says(name: str) -> None:
    head = head_of(model_of(name))
    expected = {
        "Granite": (1 / 8, None),
        "Cohere": (0.3, None),
        "HyperCLOVAX": (8.0, None),
        "Gemma2": (1.0, 0.5),
        "VaultGemma": (1.0, 30.0),
    }
    assert (head.scale, head.cap) == expected[name]


def test_a_tied_embedding_gets_one_gradient_for_both_its_parts() -> None:
    model = model_of("Llama tied")
    head = head_of(model)
    assert head.weight is model.get_input_embeddings().weight


def test_a_model_with_more_rows_than_tokens_is_cut_to_the_tokens() -> None:
    model = model_of("Phi")
    head = head_of(model, vocabulary=27)
    assert head.vocabulary == 27
    hidden = last_hidden_states(model, input_ids=IDS)[0]
    assert torch.equal(head.logits(hidden), model(input_ids=IDS).logits[0, :, :27])
    chunked_cross_entropy(model, head).backward()
    assert model.lm_head.weight.grad.shape == (32, 16)
    assert not model.lm_head.weight.grad[27:].any()


def test_freezing_the_model_later_freezes_the_head() -> None:
    model = model_of("Phi")
    head = head_of(model, vocabulary=27)
    model.lm_head.requires_grad_(requires_grad=False)
    chunked_cross_entropy(model, head).backward()
    assert model.lm_head.weight.grad is None


def test_a_tokenizer_with_more_tokens_than_rows_is_refused() -> None:
    with pytest.raises(ModelError, match="its tokenizer has 33 tokens, its output head 32; use"):
        head_of(model_of("Llama"), vocabulary=33)


def adapted(**settings: Any) -> Any:
    return get_peft_model(model_of("Llama"), LoraConfig(r=2, task_type="CAUSAL_LM", **settings))


def test_adapters_in_the_layers_take_part_and_the_head_stays_frozen() -> None:
    model = adapted(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    loss = chunked_cross_entropy(model, head_of(model))
    own = model(input_ids=IDS, labels=LABELS).loss
    assert torch.allclose(loss, own, rtol=1e-5)
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapted_head_is_refused_in_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(
        ModelError, match=r"LlamaForCausalLM: its output head is peft\.[\w.]+, .*\(lm_head\)"
    ):
        head_of(adapted(**settings))


class _Doubled(nn.Linear):
    """A kind of head that nobody has heard of."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        return 2 * super().forward(input)


def test_a_layer_of_another_kind_is_refused() -> None:
    model = model_of("Llama")
    model.lm_head = _Doubled(16, 32, bias=False)
    with pytest.raises(ModelError, match="_Doubled, allowed is a plain linear layer; take"):
        head_of(model)


def test_logits_that_are_something_else_are_refused() -> None:
    model = model_of("Llama")
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: output.sin())
    with pytest.raises(ModelError, match="LlamaForCausalLM: its logits are not those of a linear"):
        head_of(model)


def test_a_model_that_hides_its_last_hidden_states_is_refused() -> None:
    sizes = SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16}
    with pytest.raises(ModelError, match="OPTForCausalLM: its logits are not those of a linear"):
        head_of(build("OPTForCausalLM", "OPTConfig", sizes))


def test_a_model_in_half_precision_is_known_too() -> None:
    model = model_of("Cohere").bfloat16()
    head = head_of(model)
    assert head.scale == 0.3
    assert head.logits(torch.zeros(1, 16, dtype=torch.bfloat16)).dtype == torch.float32


def test_looking_at_a_model_leaves_it_in_training_mode() -> None:
    model = model_of("GPT2").train()
    head_of(model)
    assert model.training
