"""Where a tensor sits in a model, told from its name.

Covers the decoder families of transformers: Llama, Mistral, Mixtral, Qwen, Gemma, Phi, OLMo,
InternLM, GPT-2, GPT-NeoX, Falcon, BLOOM, OPT, MPT. This does not look at shapes or at the
architecture, so a tensor of an unusual family may end up with the component `other`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Component(str, Enum):
    """A part of a model that a recipe can speak about."""

    ATTENTION = "attention"
    MLP = "mlp"
    NORM = "norm"
    EMBEDDING = "embedding"
    HEAD = "head"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor sits.

    Attributes:
        layer: Index of its transformer layer; None outside the layers.
        component: The part of the model it belongs to.
    """

    layer: int | None
    component: Component


_LAYER = re.compile(r"(?:^|\.)(\d+)\.")

# A norm is told by the module that owns the tensor: `q_norm` inside an attention block is one.
_NORM = re.compile(
    r"(?:^|\.)(?:\w*norm\w*|\w*_ln|ln\d*|ln_\w+)(?:\.(?:weight|bias|scale|gamma|beta))?$"
)

# The first row with a word among the name's segments decides.
_WORDS = (
    (Component.HEAD, r"lm_head|embed_out|score|output(?=\.weight$)"),
    (
        Component.EMBEDDING,
        r"embed_\w+|word_embeddings|wte|wpe|tok_embeddings|embeddings?|project_(in|out)|per_layer_\w+",
    ),
    (
        Component.MLP,
        r"mlp|ffn|feed_?forward|(\w+_)?moe|experts|shared_experts?|fc[12]|(gate|up|down)_proj",
    ),
    (
        Component.ATTENTION,
        r"\w*attn|\w*attention|mixer|[qkvo]_proj|qkv_proj|query_key_value|Wqkv",
    ),
)
_PATTERNS = (
    (Component.NORM, _NORM),
    *((component, re.compile(rf"(?:^|\.)(?:{words})(?:\.|$)")) for component, words in _WORDS),
)


def locate(name: str) -> Place:
    """Tell a tensor's layer and component from its name."""
    layer = _LAYER.search(name)
    component = next(
        (part for part, pattern in _PATTERNS if pattern.search(name)), Component.OTHER
    )
    return Place(int(layer[1]) if layer else None, component)


def layer_count(names: Iterable[str]) -> int:
    """Number of transformer layers that tensor names speak of."""
    layers = (locate(name).layer for name in names)
    return 1 + max((layer for layer in layers if layer is not None), default=-1)
