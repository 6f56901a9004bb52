"""Models of several kinds that are small enough to be asked many questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY = 30


def llama(**settings: Any) -> Any:
    size = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    return filled(LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **(size | settings))))


def gpt2() -> Any:
    size = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return filled(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **size)))


def filled(model: Any) -> Any:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.5)
    return model.eval()


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama with eager attention": lambda: llama(attn_implementation="eager"),
    "gpt2": gpt2,
}
