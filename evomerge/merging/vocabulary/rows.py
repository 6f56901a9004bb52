"""Which tensors of a model have one row per token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from evomerge.errors import ModelError
from evomerge.layout import Component, locate

if TYPE_CHECKING:
    from evomerge.checkpoints import Checkpoint

# Embeddings of positions or segments; by chance, they may be as many as tokens.
_NOT_TOKENS = re.compile(
    r"(?:^|\.)(?:wpe|embed_positions|position_embeddings?|token_type_embeddings?)(?:\.|$)"
)
_TOKENS = re.compile(
    r"(?:^|\.)(?:embed_tokens\w*|wte|word_embeddings|tok_embeddings|lm_head|embed_out)\.weight$"
)


def vocabulary_size(checkpoint: Checkpoint) -> int:
    """Number of embeddings that a model has, rows that belong to no token included.

    Raises:
        ModelError: config.json does not say.
    """
    nested = checkpoint.config.get("text_config")
    settings = {**checkpoint.config, **(nested if isinstance(nested, dict) else {})}
    size = settings.get("vocab_size")
    if type(size) is not int or size < 1:
        raise ModelError(
            f"{checkpoint.reference}: config.json has no vocab_size, found {size!r}; "
            "its embeddings cannot be matched with its tokens"
        )
    return size


def vocabulary_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Names of the tensors whose first axis counts tokens: embedding, head and its bias.

    Raises:
        ModelError: There is none, or an embedding of tokens or a head has another layout, or
            another number of rows than config.json says.
    """
    size = vocabulary_size(checkpoint)
    found = set()
    for name, header in checkpoint.headers.items():
        is_candidate = locate(name).component in {Component.EMBEDDING, Component.HEAD}
        if not is_candidate or _NOT_TOKENS.search(name):
            continue
        if header.shape[:1] == (size,):
            found.add(name)
        elif _TOKENS.search(name) or size in header.shape:
            raise ModelError(
                f"{checkpoint.reference}: tensor {name!r} has shape {header.shape}, config.json "
                f"has vocab_size {size}; only tensors with one row per token can be matched"
            )
    if not found:
        raise ModelError(
            f"{checkpoint.reference}: has no embedding of {size} rows, the vocab_size of "
            "config.json; this family cannot be merged with a tokenizer"
        )
    return frozenset(found)
