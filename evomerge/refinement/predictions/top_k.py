"""What a teacher predicts at some positions, as far as it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TopK:
    """The likeliest tokens at `n` positions, and how likely all others are together.

    A row with fewer than `k` tokens ends with log-probabilities of minus infinity.

    Attributes:
        ids: Tokens, likeliest first; shape `(n, k)`, int64.
        log_probs: Their log-probabilities at temperature 1; shape `(n, k)`, float32.
        tail: The log-probability of all other tokens together, minus infinity if there are none;
            shape `(n,)`, float32.
        nll: The negative log-probability of the token that follows; shape `(n,)`, float32.
        vocabulary: The number of tokens that the teacher knows.
        mean: The mean of the log-probabilities of the whole vocabulary; shape `(n,)`, float32.
            None where it is not known.
        deviation: Their standard deviation, that of a sample, which is also that of the logits.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    nll: Tensor
    vocabulary: int
    mean: Tensor | None = None
    deviation: Tensor | None = None

    def has(self, labels: Tensor) -> Tensor:
        """Which rows have kept a token, one for each row; shape `(n,)`, bool."""
        return ((self.ids == labels[:, None]) & self.log_probs.isfinite()).any(dim=1)

    def each(self, change: Callable[[Tensor], Tensor]) -> TopK:
        """The same with all tensors changed alike: moved, or some rows taken."""
        return TopK(
            ids=change(self.ids),
            log_probs=change(self.log_probs),
            tail=change(self.tail),
            nll=change(self.nll),
            vocabulary=self.vocabulary,
            mean=None if self.mean is None else change(self.mean),
            deviation=None if self.deviation is None else change(self.deviation),
        )
