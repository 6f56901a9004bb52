"""Which rows of a batch are learned from, and what follows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a token that is not to be predicted, as in transformers."""


def supervised(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose next token is to be predicted, and that token.

    The first token of a response is predicted by the last row of its prompt; the last row of a
    sequence predicts nothing. The first token of each document of a packed sequence must be
    ignored, or it would be predicted from the document before.

    Args:
        labels: The tokens themselves or `IGNORED`; shape `(batch, positions)`, int64.

    Returns:
        Rows of the hidden states, flattened to `(batch * positions, H)`, and their labels; both of
        shape `(N,)`, int64.
    """
    batch, positions = labels.shape
    following = labels.new_full((batch, positions), IGNORED)
    following[:, :-1] = labels[:, 1:]
    following = following.flatten()
    rows = (following != IGNORED).nonzero().squeeze(-1)
    return rows, following[rows]
