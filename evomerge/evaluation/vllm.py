"""The vLLM backend: candidates are merged into the weights of an engine that keeps running."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.checkpoints import AdaptedModel
from evomerge.errors import EvaluationError, ModelError
from evomerge.evaluation.answers import in_order
from evomerge.evaluation.backend import check_backend
from evomerge.evaluation.tokens import Continuation, Tokenizer
from evomerge.evaluation.vllm_weights import check_use, stored_views
from evomerge.live_model import load_outline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from evomerge.checkpoints import Checkpoint
    from evomerge.evaluation.likelihood import LogLikelihood
    from evomerge.evaluation.tokens import PreparedRequest, Prompt, Tokens

MOST_LASTS = 128
"""Most tokens that vLLM tells the likelihoods of behind one text."""

MOST_ROWS = 256
"""Most texts that are under way together."""

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
        check_backend("vllm")
        outline, tokenizer = load_outline(folder)
        self.tokenizer = Tokenizer(outline, tokenizer)
        self.vocabulary = int(outline.config.get_text_config(decoder=True).vocab_size)
        self._engine = _start(
            model=str(folder),
            dtype=str(dtype).removeprefix("torch."),
            # A token behind the window is predicted, never read.
            max_model_len=self.tokenizer.max_length + 1,
            max_num_batched_tokens=batch_tokens,
            max_num_seqs=min(MOST_ROWS, batch_tokens),
        )
        (self._model,) = self._engine.apply_model(lambda model: model)
        runs_on = next(self._model.parameters()).device
        if runs_on.type != device.type:
            raise ModelError(f"device {device}: this build of vLLM runs models on {runs_on.type}")

    def weights(self, base: Checkpoint) -> dict[str, Tensor]:
        """The live weights by their stored names, the engine's use of them tried out."""
        while isinstance(base, AdaptedModel):  # the engine has loaded what is below
            base = base.base
        views = stored_views(self._model, base)
        text = tuple(self.vocabulary * part // (TRIED + 1) for part in range(1, TRIED + 1))
        predicted = self.likelihoods([Continuation(inputs=text[:-1], target=text[1:])])
        check_use(views, base, lambda: -predicted()[0][0] / (TRIED - 1))
        base.release()
        return views

    def changed(self) -> None:
        """Forget what was read with other weights."""
        # Without this, texts go on from what another model made of their beginnings.
        if not self._engine.reset_prefix_cache():
            raise EvaluationError("vLLM does not give up what it has read with other weights")

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
            outputs = self._run([(each.inputs, each.settings()) for each in together])
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
        outputs = self._run(
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
        # Attention multiplies by what lies in memory behind a text, if only by 0; NaN would stay.
        for module in self._model.modules():
            kept = getattr(module, "kv_cache", ())
            for cache in [kept] if isinstance(kept, Tensor) else kept:
                cache.zero_()
        return EvaluationError(f"{numbers} are NaN or infinite")

    def _run(
        self,
        asked: Sequence[tuple[Tokens, dict[str, Any]]],
        ended: Callable[[int, Sequence[int]], bool] = lambda *_: False,
    ) -> list[Any]:
        """What the engine returns for texts, each with its settings.

        Stop texts are not among the settings: vLLM looks for them in a text of its own, which
        tokens that are no text by themselves can mislead.

        Args:
            asked: The texts.
            ended: Whether the text of a number needs no more tokens than these.
        """
        from vllm import SamplingParams

        found: dict[str, Any] = {}
        names = [str(number) for number in range(len(asked))]
        try:
            for name, (text, settings) in zip(names, asked, strict=True):
                wanted = SamplingParams(temperature=0, detokenize=False, **settings)
                self._engine.add_request(name, {"prompt_token_ids": list(text)}, wanted)
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    name, (row,) = output.request_id, output.outputs
                    if output.finished or ended(int(name), row.token_ids):
                        found[name] = output
                        self._engine.abort_request([name])
        finally:
            self._engine.abort_request([name for name in names if name not in found])
        return [found[name] for name in names]


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


def _start(**settings: Any) -> Any:
    """Start an engine whose weights stay as they are loaded."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights in reach
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # by the token that is predicted
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # workers share this machine
        "VLLM_HOST_IP": "127.0.0.1",  # nobody else is to connect
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_NO_USAGE_STATS": "1",
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm
    import vllm._custom_ops as operations

    # Else linear layers on a CPU multiply by packed copies, and give their weights up.
    operations._supports_onednn = False  # noqa: SLF001
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        return vllm.LLM(
            **settings,
            skip_tokenizer_init=True,
            load_format="safetensors",
            generation_config="vllm",  # no defaults of the model's own
            enforce_eager=True,
            enable_chunked_prefill=True,
            enable_prefix_caching=True,
            disable_log_stats=True,
        ).llm_engine
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise ModelError(f"{settings['model']}: vLLM cannot load it: {cause}") from error
    finally:
        # vLLM makes it do nothing, and merges would depend on the number of threads.
        torch.set_num_threads = set_threads
        set_threads(threads)
