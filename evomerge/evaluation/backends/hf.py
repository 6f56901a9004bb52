"""The backend that needs nothing installed: a live model of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.evaluation.passes.answers import AnswerPlan
from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.tokens import Tokenizer
from evomerge.live_model import named_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.evaluation.passes.tokens import PreparedRequest


class HfBackend:
    """A causal language model of transformers; see `Backend`.

    Args:
        model: The model, whose weights may change at any time.
        tokenizer: Its tokenizer.
        batch_tokens: Most tokens of one forward pass, padding included.

    Attributes:
        forward: The model's forward passes.
        tokenizer: Turns requests into tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int) -> None:
        self.forward = Forward(model)
        self.tokenizer = Tokenizer(model, tokenizer)
        self._batch_tokens = batch_tokens

    def weights(self, base: Checkpoint) -> dict[str, Tensor]:
        """The live weights by their stored names; see `named_weights`."""
        return named_weights(self.forward.model, base.headers)

    def changed(self) -> None:
        """Find out which layers are as they were before."""
        self.forward.boundaries.look()

    def plan(self, requests: Sequence[PreparedRequest]) -> AnswerPlan:
        """What answers requests, in order."""
        return AnswerPlan(requests, self.forward, self.tokenizer, self._batch_tokens)
