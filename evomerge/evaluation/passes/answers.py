"""Answers tokenised requests with a live model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.evaluation.passes.generation import Generation
from evomerge.evaluation.passes.library_generation import generate
from evomerge.evaluation.passes.likelihood import LikelihoodPlan
from evomerge.evaluation.passes.packed import packed_linears

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.evaluation.passes.forward import Forward
    from evomerge.evaluation.passes.likelihood import LogLikelihood
    from evomerge.evaluation.passes.tokens import PreparedRequest, Tokenizer


class AnswerPlan:
    """Which forward passes answer some requests.

    They depend on the requests and on `batch_tokens` alone, so the same weights always give the
    same numbers on the same machine.

    Args:
        requests: The requests.
        forward: The model.
        tokenizer: Its tokenizer.
        batch_tokens: Most tokens of one forward pass, padding included.

    Attributes:
        likelihoods: What is read for log-likelihoods.
        prompts: What is answered with a text.
    """

    def __init__(
        self,
        requests: Sequence[PreparedRequest],
        forward: Forward,
        tokenizer: Tokenizer,
        batch_tokens: int,
    ) -> None:
        self._requests, self._forward = requests, forward
        self.likelihoods = LikelihoodPlan(
            [continuation for request in requests for continuation in request.continuations],
            sees_all=forward.sees_all,
            batch_tokens=batch_tokens,
            pad=tokenizer.pad_id,
        )
        self.prompts = [request.prompt for request in requests if request.prompt]
        self._tokenizer, self._batch_tokens = tokenizer, batch_tokens

    def run(self) -> list[Any]:
        """Answer: a `LogLikelihood`, a float for rolling ones, a text for prompts."""
        with packed_linears(self._forward.model):
            return in_order(self._requests, self.likelihoods.run(self._forward), self._texts())

    def _texts(self) -> list[str]:
        if self._forward.sees_all:
            return Generation(self._forward, self._tokenizer, self._batch_tokens).run(self.prompts)
        return generate(self._forward.model, self._tokenizer, self.prompts, self._batch_tokens)


def in_order(
    requests: Sequence[PreparedRequest], likelihoods: Iterable[LogLikelihood], texts: Iterable[str]
) -> list[Any]:
    """The answers to requests, of what was found for their continuations and prompts."""
    likelihoods, texts = iter(likelihoods), iter(texts)
    answers: list[Any] = []
    for request in requests:
        if request.prompt:
            answers.append(next(texts))
            continue
        parts = [next(likelihoods) for _ in request.continuations]
        rolling = request.kind == "loglikelihood_rolling"
        answers.append(sum(value for value, _ in parts) if rolling else parts[0])
    return answers
