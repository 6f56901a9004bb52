"""Where a tensor sits in a model, told from its name.

Names follow the Hugging Face conventions of decoder-only families. This does not look at shapes or
at the architecture, so an unusual family may end up with the component `other`.
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


_LAYER = re.compile(r"\.(\d+)\.")

# The first pattern found in the name decides. Norms come first because some families keep them
# inside the attention module (q_norm) or name them after it (post_attention_layernorm).
_COMPONENTS = (
    (re.compile(r"norm|(^|\.)ln_"), Component.NORM),
    (re.compile(r"(^|\.)(lm_head|embed_out|output)\."), Component.HEAD),
    (re.compile(r"embed|(^|\.)w[tp]e\."), Component.EMBEDDING),
    (re.compile(r"att|(^|\.)mixer\."), Component.ATTENTION),
    (re.compile(r"mlp|ffn|feed_forward|expert|moe|(^|\.)fc[12]\."), Component.MLP),
)


def locate(name: str) -> Place:
    """Tell a tensor's layer and component from its name."""
    layer = _LAYER.search(name)
    component = next(
        (part for pattern, part in _COMPONENTS if pattern.search(name)), Component.OTHER
    )
    return Place(int(layer[1]) if layer else None, component)


def layer_count(names: Iterable[str]) -> int:
    """Number of transformer layers that tensor names speak of."""
    layers = (locate(name).layer for name in names)
    return 1 + max((layer for layer in layers if layer is not None), default=-1)
