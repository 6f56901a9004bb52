"""Builds tiny models of many architectures: two layers and random weights, in an instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
DISTILBERT = {"vocab_size": 32, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}

CAUSAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        name: (f"{name}ForCausalLM", f"{name}Config", SIZES)
        for name in (
            *("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Phi3", "GPTNeoX", "Olmo2"),
            *("Granite", "Phi", "StableLm", "Cohere", "SmolLM3"),
        )
    },
    **{
        name: (f"{name}ForCausalLM", f"{name}Config", SIZES | EXPERTS)
        for name in ("Mixtral", "Qwen2Moe", "Qwen3Moe", "GraniteMoe", "Olmoe", "GptOss")
    },
    "Gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", SIZES),
    "GPT2": ("GPT2LMHeadModel", "GPT2Config", SIZES | GPT2),
    "Llama tied": ("LlamaForCausalLM", "LlamaConfig", SIZES | {"tie_word_embeddings": True}),
    "GPT2 untied": (
        "GPT2LMHeadModel",
        "GPT2Config",
        SIZES | GPT2 | {"tie_word_embeddings": False},
    ),
}
"""Causal language models: the classes of model and config, and the config's values."""

OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        f"{name} {task}": (f"{name}For{task}", f"{name}Config", values)
        for name, values in (("Bert", SIZES), ("Roberta", SIZES), ("DistilBert", DISTILBERT))
        for task in ("MaskedLM", "SequenceClassification", "QuestionAnswering")
    },
    "Llama classifier": ("LlamaForSequenceClassification", "LlamaConfig", SIZES),
    "ModernBert": ("ModernBertForMaskedLM", "ModernBertConfig", SIZES),
    "Electra": ("ElectraForMaskedLM", "ElectraConfig", SIZES | {"embedding_size": 16}),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5 | {"num_decoder_layers": 2}),
    "T5 gated, untied": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}
"""Encoders, encoder-decoders and classifiers, in the same form."""

VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
MULTIMODAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llava": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": SIZES | {"model_type": "llama"},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
        },
    ),
    "Gemma3": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": SIZES | {"model_type": "gemma3_text"},
            "vision_config": VISION | {"model_type": "siglip_vision_model"},
        },
    ),
    "Qwen2Vl": (
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        {
            "text_config": SIZES | {"model_type": "qwen2_vl_text"},
            "vision_config": {"depth": 3, "embed_dim": 16, "num_heads": 2, "hidden_size": 16},
        },
    ),
}
"""Language models that see, in the same form."""


def build(model: str, config: str, values: dict[str, Any]) -> Any:
    """A model of random weights; the same for every call."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # transformers draws from the global generator
        return getattr(transformers, model)(getattr(transformers, config)(**values)).eval()


def save(model: Any, folder: Path) -> None:
    """Write a checkpoint under the names that transformers stores."""
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
