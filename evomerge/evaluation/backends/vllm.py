"""The vLLM backend: candidates are merged into the weights of an engine that keeps running."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints import AdaptedModel
from evomerge.errors import EvaluationError, ModelError
from evomerge.evaluation.backends.vllm_engine import VllmEngine
from evomerge.evaluation.backends.vllm_weights import check_use, stored_views
from evomerge.evaluation.passes.answers import in_order
from evomerge.evaluation.passes.tokens import Continuation, Tokenizer
from evomerge.live_model import load_outline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.evaluation.passes.likelihood import LogLikelihood
    from evomerge.evaluation.passes.tokens import PreparedRequest, Prompt, Tokens

MOST_LASTS = 128
"""Most tokens that vLLM tells the likelihoods of behind one text."""

TRIED = 8
"""Number of tokens by which it is tried out whether weights are used."""


class VllmBackend:
    """A causal language model that an engine of vLLM runs in this process; see `Backend`.

    Args:
        folder: The model, without adapters.
        dtype: Precision of weights and passes.
        device: Where it runs; the installed vLLM must be one for it.
        batch_tokens: Most tokens of one forward pass.

    Attributes:
        tokenizer: Turns requests into tokens.
        vocabulary: Number of tokens that the model knows.

    Raises:
        ModelError: vLLM cannot load it.
        VersionError: vLLM is not installed.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device, batch_tokens: int
    ) -> None:
        outline, tokenizer = load_outline(folder)
        self.tokenizer = Tokenizer(outline, tokenizer)
        self.vocabulary = int(outline.config.get_text_config(decoder=True).vocab_size)
        self._engine = VllmEngine(folder, dtype, self.tokenizer.max_length, batch_tokens)
        runs_on = next(self._engine.model.parameters()).device
        if runs_on.type != device.type or device.index not in {None, runs_on.index}:
            raise ModelError(f"device {device}: this vLLM runs models on {runs_on}")

    def weights(self, base: Checkpoint) -> dict[str, Tensor]:
        """The live weights by their stored names, the engine's use of them tried out."""
        while isinstance(base, AdaptedModel):  # the engine has loaded what is below
            base = base.base
        views = stored_views(self._engine.model, base)
        text = tuple(self.vocabulary * part // (TRIED + 1) for part in range(1, TRIED + 1))
        predicted = self.likelihoods([Continuation(inputs=text[:-1], target=text[1:])])
        check_use(views, base, self.vocabulary, lambda: -predicted()[0][0] / (TRIED - 1))
        base.release()
        return views

    def changed(self) -> None:
        """Forget what was read with other weights."""
        self._engine.forget()

    def likelihoods(self, wanted: Sequence[Continuation]) -> Callable[[], list[LogLikelihood]]:
        """What answers for continuations, in order; contexts that end alike are read once."""
        readings: dict[Tokens, list[_Reading]] = {}
        for index, continuation in enumerate(wanted):
            of_text = readings.setdefault(continuation.inputs, [_Reading(continuation.inputs)])
            if len(of_text[-1].wanted) == MOST_LASTS:
                of_text.append(_Reading(continuation.inputs))
            of_text[-1].wanted[index] = continuation.target
        together = [reading for of_text in readings.values() for reading in of_text]

        def run() -> list[LogLikelihood]:
            found: dict[int, LogLikelihood] = {}
            outputs = self._engine.run([(each.inputs, each.settings()) for each in together])
            for reading, output in zip(together, outputs, strict=True):
                found |= reading.answers(output)
            if not all(math.isfinite(value) for value, _ in found.values()):
                raise self._broken("log-likelihoods")
            return [found[index] for index in range(len(wanted))]

        return run

    def plan(self, requests: Sequence[PreparedRequest]) -> _AnswerPlan:
        """What answers requests, in order."""
        return _AnswerPlan(requests, self)

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        """Continue prompts greedily; equal ones are answered once.

        Raises:
            EvaluationError: Logits are not finite; the model is broken.
        """
        different = list(dict.fromkeys(prompts))

        def ended(number: int, tokens: Sequence[int]) -> bool:
            return self.tokenizer.ended([(tokens, different[number].until)])[0]

        settings = {"stop_token_ids": sorted(self.tokenizer.ends), "logprobs": 0}
        outputs = self._engine.run(
            [(each.inputs, settings | {"max_tokens": each.max_new_tokens}) for each in different],
            ended,
        )
        answers = {}
        for prompt, (output,) in zip(different, (each.outputs for each in outputs), strict=True):
            chosen = zip(output.token_ids, output.logprobs, strict=True)
            if not all(math.isfinite(found[token].logprob) for token, found in chosen):
                raise self._broken("logits")
            answers[prompt] = self.tokenizer.answer(list(output.token_ids), prompt.until)
        return [answers[prompt] for prompt in prompts]

    def _broken(self, numbers: str) -> EvaluationError:
        self._engine.clear()
        return EvaluationError(f"{numbers} are NaN or infinite")


class _AnswerPlan:
    """What is asked of the engine to answer some requests."""

    def __init__(self, requests: Sequence[PreparedRequest], backend: VllmBackend) -> None:
        self._requests, self._backend = requests, backend
        self._likelihoods = backend.likelihoods(
            [continuation for request in requests for continuation in request.continuations]
        )
        self._prompts = [request.prompt for request in requests if request.prompt]

    def run(self) -> list[Any]:
        """Answer, in order."""
        return in_order(self._requests, self._likelihoods(), self._backend.texts(self._prompts))


@dataclass(slots=True)
class _Reading:
    """A text, and the continuations whose last tokens follow it.

    Attributes:
        inputs: The text.
        wanted: The continuations by their numbers; all but the last tokens are in the text.
    """

    inputs: Tokens
    wanted: dict[int, Tokens] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What vLLM is asked: a token more, and how likely the wanted ones are."""
        asked: dict[str, Any] = {
            "max_tokens": 1,
            "logprob_token_ids": sorted({target[-1] for target in self.wanted.values()}),
        }
        if any(len(target) > 1 for target in self.wanted.values()):
            asked["prompt_logprobs"] = 0  # of no other tokens than those of the text
        return asked

    def answers(self, output: Any) -> dict[int, LogLikelihood]:
        """The log-likelihoods that vLLM's output tells."""
        (behind,) = output.outputs
        found: dict[int, LogLikelihood] = {}
        for index, target in self.wanted.items():
            start = len(self.inputs) - len(target) + 1
            inner = [
                output.prompt_logprobs[start + place][token]
                for place, token in enumerate(target[:-1])
            ]
            values = [*(each.logprob for each in inner), behind.logprobs[0][target[-1]].logprob]
            greedy = [*(each.rank == 1 for each in inner), behind.token_ids[0] == target[-1]]
            found[index] = sum(values), all(greedy)
        return found
