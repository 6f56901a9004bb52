"""Where a tensor sits in a model, told from its name.

Covers the causal, encoder and encoder-decoder language models of transformers, under the names
that live models have and under those that checkpoints have. Neither shapes nor the architecture
are looked at, so parts that are neither attention nor MLP, such as convolutions, state spaces and
residual scales, and parts of unusual families have the component `other`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Component(str, Enum):
    """A part of a model that a recipe can speak about.

    The head is all that follows the last layer and its norm: the language model head, poolers
    and classifiers. Routers belong to the MLP, relative position biases to the attention.
    """

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
        layer: Index of its transformer layer, counted from 0 in the encoder and in the decoder;
            None outside the layers.
        component: The part of the model it belongs to.
    """

    layer: int | None
    component: Component


def _segments(words: str, end: str = r"(?:\.|$)") -> str:
    return rf"(?:^|\.)(?:{words}){end}"


# Towers that read other modalities, bridges from them, and layers that predict further tokens
# have layers of their own, which are not those of the language model.
_TOWER = re.compile(
    _segments(
        r"(?:\w+_)?(?:vision|visual|image|img|audio|speech|video)(?:_\w+)?|vqmodel|mtp"
        r"|(?:multi_?modal|mm|modality)_\w+|projector|merger|connector|aligner|qformer"
        r"|(?:\w+_)?resampler(?:_model)?"
    )
)

# A norm is told by the module that owns the tensor: `q_norm` inside an attention block is one.
# Its module may be an element of a list.
_NORM = re.compile(
    _segments(r"\w*norm\w*|\w*_ln|ln\d*|ln_\w+", end=r"(?:\.\d+)?(?:\.\w+)?$"), re.IGNORECASE
)

_HEAD = (
    r"(?:\w+_)?lm_head|embed_out|(?:\w+_)?head|score|output_(?:layer|projection)"
    r"|(?:output|decoder)(?=\.(?:weight|bias)$)|cls|(?:\w+_)?predictions|final_logits_bias"
    r"|(?:\w+_)?pooler|(?:\w+_)?classifier|qa_outputs|vocab_(?:transform|projector)"
    r"|pred_layer|lm_loss|proj_out"
)
_EMBEDDING = r"(?:\w+_)?embed(?:s|dings?)?(?:_\w+)?|w[tp]e|shared|project_(?:in|out)|per_layer_\w+"
_MLP = (
    r"(?:\w+_)?mlp(?:_block)?|ffns?|ffn_output|ff|feed_?forward|DenseReluDense|(?:\w+_)?moe"
    r"|experts|shared_experts?|router|gate|fc[12]|(?:gate|up|down)_proj|intermediate|output"
)
_ATTENTION = (
    r"\w*attn|\w*attentions?|relative_attention_bias|[qkvo]_proj|qkv_proj|query_key_value|Wqkv"
    rf"|mixer(?!\.(?:{_MLP})\b)"
)

# The index of a layer is the first number, unless what comes before it says otherwise.
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")
_NO_LAYER = re.compile(_segments(f"{_HEAD}|{_EMBEDDING}|experts"), re.IGNORECASE)

# Blocks nest (`attention.output.dense`, `self_attention.experts`); the outermost one counts.
_IN_LAYER = re.compile(_segments(f"(?P<attention>{_ATTENTION})|(?P<mlp>{_MLP})"), re.IGNORECASE)
_OUTSIDE = re.compile(
    _segments(
        f"(?P<head>{_HEAD})|(?P<embedding>{_EMBEDDING})"
        f"|(?P<attention>{_ATTENTION})|(?P<mlp>{_MLP})"
    ),
    re.IGNORECASE,
)


def locate(name: str) -> Place:
    """Tell a tensor's layer and component from its name."""
    number = _NUMBER.search(name)
    outside = name[: number.start(1)] if number else name
    if _TOWER.search(outside):
        return Place(None, Component.OTHER)
    layer = int(number[1]) if number and not _NO_LAYER.search(outside) else None
    if _NORM.search(name):
        return Place(layer, Component.NORM)
    block = (_OUTSIDE if layer is None else _IN_LAYER).search(name)
    return Place(layer, Component(block.lastgroup) if block else Component.OTHER)


def layer_count(names: Iterable[str]) -> int:
    """Number of transformer layers that tensor names speak of, of the longer stack if two."""
    layers = (locate(name).layer for name in names)
    return 1 + max((layer for layer in layers if layer is not None), default=-1)
