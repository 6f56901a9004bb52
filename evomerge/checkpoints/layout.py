"""Where a tensor sits in a decoder, told from its name alone.

Covers the common decoder families of transformers: Llama, Mistral, Mixtral, Qwen, Gemma, Phi,
OLMo, GPT-2, GPT-NeoX, Falcon, BLOOM, OPT, MPT. Anything else comes out as `other`, never wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Component(str, Enum):
    """The part of a layer, or of the model around its layers, that a tensor belongs to."""

    ATTENTION = "attention"
    MLP = "mlp"
    NORM = "norm"
    EMBEDDING = "embedding"
    HEAD = "head"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A tensor's place in its model.

    Attributes:
        layer: Counted from 0; `None` for tensors outside the layers, such as the final norm.
        component: The part it belongs to.
    """

    layer: int | None
    component: Component


_LAYER = re.compile(r"(?:^|\.)(\d+)\.")

# The first row with a word among the name's segments decides, so order matters: `q_norm` of an
# attention block is a norm, and `word_embeddings_layernorm` is no embedding.
_WORDS: tuple[tuple[Component, str], ...] = (
    (Component.NORM, r"\w*norm\w*|ln|ln_\w+|\w+_ln"),
    (Component.HEAD, "lm_head|embed_out|output_head|score"),
    (
        Component.EMBEDDING,
        (
            r"embed_tokens\w*|embed_in|embed_positions|word_embeddings|wte|wpe|tok_embeddings"
            r"|project_in|project_out|per_layer_\w+"
        ),
    ),
    (
        Component.MLP,
        (
            r"mlp|ffn|feed_?forward|block_sparse_moe|moe|experts|shared_experts?|fc1|fc2"
            r"|gate_proj|up_proj|down_proj|dense_h_to_4h|dense_4h_to_h"
        ),
    ),
    (Component.ATTENTION, r"\w*attn|\w*attention|[qkvo]_proj|qkv_proj|query_key_value|Wqkv"),
)
_PATTERNS = tuple(
    (component, re.compile(rf"(?:^|\.)(?:{words})(?:\.|$)")) for component, words in _WORDS
)


def locate(name: str) -> Place:
    """Return the place of the tensor called `name`."""
    layer = _LAYER.search(name)
    component = next(
        (component for component, pattern in _PATTERNS if pattern.search(name)), Component.OTHER
    )
    return Place(layer=int(layer.group(1)) if layer else None, component=component)


def layer_count(names: Iterable[str]) -> int:
    """Return how many layers tensors of these names make up; 0 if none is in a layer."""
    layers = (locate(name).layer for name in names)
    return max((1 + layer for layer in layers if layer is not None), default=0)
