"""An engine of vLLM in this process, whose weights are in reach and stay as they are laid out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import EvaluationError, ModelError
from evomerge.evaluation.backends.contract import check_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from evomerge.evaluation.passes.tokens import Tokens

MOST_ROWS = 256
"""Most texts that are under way together."""

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights in reach
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # by the token that is predicted
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # workers share this machine
    "VLLM_HOST_IP": "127.0.0.1",  # nobody else is to connect
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables that an engine needs."""

DEFAULTS = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""Environment variables that users may set: what is logged, and GiB for what is attended to."""


class VllmEngine:
    """Runs a model, and nothing but what it is asked for.

    Args:
        folder: The model.
        dtype: Precision of weights and passes.
        window: Most tokens of a text.
        batch_tokens: Most tokens of one forward pass.

    Attributes:
        model: vLLM's module, whose parameters may be written to.

    Raises:
        ModelError: vLLM cannot load it.
        VersionError: vLLM is not installed.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, window: int, batch_tokens: int) -> None:
        check_backend("vllm")
        os.environ |= SETTINGS | {name: os.environ.get(name, DEFAULTS[name]) for name in DEFAULTS}
        import vllm
        import vllm._custom_ops as operations

        # Else linear layers on a CPU multiply by packed copies, and give their weights up.
        operations._supports_onednn = False  # noqa: SLF001
        threads, set_threads = torch.get_num_threads(), torch.set_num_threads
        try:
            self._engine = vllm.LLM(
                model=str(folder),
                load_format="safetensors",
                dtype=str(dtype).removeprefix("torch."),
                skip_tokenizer_init=True,
                generation_config="vllm",  # no defaults of the model's own
                max_model_len=window + 1,  # a token behind the window is predicted, never read
                max_num_batched_tokens=batch_tokens,
                max_num_seqs=min(MOST_ROWS, batch_tokens),
                enable_chunked_prefill=True,
                enable_prefix_caching=True,
                enforce_eager=True,
                disable_log_stats=True,
            ).llm_engine
        except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
            cause = " ".join(str(error).split())
            raise ModelError(f"{folder}: vLLM cannot load it: {cause}") from error
        finally:
            # vLLM makes it do nothing, and merges would depend on the number of threads.
            torch.set_num_threads = set_threads
            set_threads(threads)
        (self.model,) = self._engine.apply_model(lambda model: model)

    def run(
        self,
        asked: Sequence[tuple[Tokens, dict[str, Any]]],
        ended: Callable[[int, Sequence[int]], bool] = lambda *_: False,
    ) -> list[Any]:
        """What vLLM returns for texts, each with its settings, continued greedily.

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
                    if output.finished:
                        found[name] = output
                    elif ended(int(name), row.token_ids):
                        found[name] = output
                        self._engine.abort_request([name])
        finally:
            self._engine.abort_request([name for name in names if name not in found])
        return [found[name] for name in names]

    def forget(self) -> None:
        """Forget what was read, as it was read with other weights."""
        # Without this, texts go on from what another model made of their beginnings.
        if not self._engine.reset_prefix_cache():
            raise EvaluationError("vLLM does not give up what it has read with other weights")

    def clear(self) -> None:
        """Clear the memory of what was read, after numbers in it were not finite."""
        # Attention multiplies by what lies in it behind a text, if only by 0; NaN would stay.
        for module in self.model.modules():
            kept = getattr(module, "kv_cache", ())
            for cache in [kept] if isinstance(kept, Tensor) else kept:
                cache.zero_()
