"""Builds tiny Llama models that differ in their vocabularies, without loading transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HIDDEN = 16
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def build_model(
    folder: Path,
    tokenizer: dict[str, Any],
    *,
    seed: int,
    rows: int | None = None,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> None:
    """Write a model of one layer with an embedding and a head of `rows` rows."""
    folder.mkdir(parents=True)
    rows = rows or len(tokens_of(tokenizer))
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (rows, HIDDEN),
        "lm_head.weight": (rows, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        f"{layer}input_layernorm.weight": (HIDDEN,),
        f"{layer}post_attention_layernorm.weight": (HIDDEN,),
        **{f"{layer}self_attn.{part}_proj.weight": (HIDDEN, HIDDEN) for part in "qkvo"},
        **{f"{layer}mlp.{part}_proj.weight": (HIDDEN, HIDDEN) for part in ("gate", "up", "down")},
    }
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=rng).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "eos_token_id": tokens_of(tokenizer)["<|end|>"],
        "bos_token_id": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    generation = {"eos_token_id": [tokens_of(tokenizer)["<|end|>"]]}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def byte_level(
    merges: Sequence[tuple[str, str]], added: Sequence[str] = ("<|end|>",), *, turn: int = 0
) -> dict[str, Any]:
    """The content of tokenizer.json of a byte-level BPE; `turn` rotates the ids."""
    tokens = [*BYTES, *(left + right for left, right in merges)]
    tokens = tokens[turn:] + tokens[:turn]
    entries = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in enumerate(added, start=len(tokens))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": entries,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }


def tokens_of(tokenizer: dict[str, Any]) -> dict[str, int]:
    """All tokens and their ids."""
    added = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    return tokenizer["model"]["vocab"] | added


BASE = byte_level([("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")])
ONE = byte_level(
    [("h", "e"), ("c", "a"), ("ca", "t"), ("Ġ", "w"), ("Ġw", "o")],
    ("<|end|>", "<|im_start|>", "<|im_end|>"),
    turn=7,
)
TWO = byte_level([("c", "a"), ("d", "o"), ("do", "g"), ("he", "r"), ("h", "e")], turn=40)


def build_models(out: Path, **settings: Any) -> None:
    """Write `base`, with six rows more than tokens, and `one` and `two`."""
    build_model(out / "base", BASE, seed=1, rows=len(tokens_of(BASE)) + 6, **settings)
    build_model(out / "one", ONE, seed=2, **settings)
    build_model(out / "two", TWO, seed=3, rows=len(tokens_of(TWO)) + 2, **settings)
