"""The backend that needs nothing installed: a live model of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.evaluation.passes.answers import AnswerPlan
from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.tokens import Tokenizer
from evomerge.live_model import blank_model, named_weights

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
        self._own_tokenizer, self._batch_tokens = tokenizer, batch_tokens

    def with_layers(self, config: dict[str, Any]) -> HfBackend:
        """A model of the same family with other layers, whose weights are still to be written.

        Args:
            config: What its config.json would say.

        Raises:
            ModelError: transformers cannot build it.
        """
        model = blank_model(self.forward.model, config)
        return HfBackend(model, self._own_tokenizer, self._batch_tokens)

    def weights(self, base: Checkpoint) -> dict[str, Tensor]:
        """The live weights by their stored names; see `named_weights`."""
        return named_weights(self.forward.model, base.headers)

    def changed(self) -> None:
        """Find out which layers are as they were before."""
        self.forward.boundaries.look()

    def plan(self, requests: Sequence[PreparedRequest]) -> AnswerPlan:
        """What answers requests, in order."""
        return AnswerPlan(requests, self.forward, self.tokenizer, self._batch_tokens)
