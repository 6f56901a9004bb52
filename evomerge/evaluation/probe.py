"""Finds broken models by a few tokens, before they are scored on everything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evomerge.errors import EvaluationError
from evomerge.evaluation.tokens import Continuation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.evaluation.backend import Backend
    from evomerge.evaluation.tokens import Tokens

TEXTS, LENGTH = 4, 32
"""How many texts are predicted, and how many tokens of each."""

TOLERANCE = 3.0
"""Nats per token by which any model may be worse than the first."""


class Probe:
    """Has a model predict the beginnings of some prompts.

    Args:
        prompts: Prompts, of which the first ones that differ are used.
        backend: The model, in a state that is known to be sound.
    """

    def __init__(self, prompts: Iterable[Tokens], backend: Backend) -> None:
        texts = _beginnings(prompts)
        self._tokens = sum(len(text) - 1 for text in texts)
        wanted = [Continuation(inputs=text[:-1], target=text[1:]) for text in texts]
        self._likelihoods = backend.likelihoods(wanted)
        self._guessing = math.log(backend.vocabulary)
        try:
            self._sound = self._nats()
        except EvaluationError:  # nothing to measure others by
            self._sound = math.inf

    def check(self) -> None:
        """Check the model as it is now.

        Raises:
            EvaluationError: It predicts text worse than one that gives every token the same
                chance, and much worse than the model did at first; or its numbers are not finite.
        """
        nats = self._nats()
        if nats > max(self._guessing, self._sound + TOLERANCE):
            raise EvaluationError(
                f"predicts prompts worse than guessing does: {nats:.1f} nats per token, guessing "
                f"{self._guessing:.1f}, the base {self._sound:.1f}; the rest was not scored"
            )

    def _nats(self) -> float:
        if not self._tokens:
            return 0.0
        return -sum(value for value, _ in self._likelihoods()) / self._tokens


def _beginnings(prompts: Iterable[Tokens]) -> Sequence[Tokens]:
    found: dict[Tokens, None] = {}
    for prompt in prompts:
        if len(prompt) > 1 and len(found) < TEXTS:
            found.setdefault(tuple(prompt[:LENGTH]))
    return list(found)
