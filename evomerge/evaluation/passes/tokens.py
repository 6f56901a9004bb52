"""Turns lm-eval requests into token ids, exactly as lm-eval's own Hugging Face backend does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """Tokens whose log-likelihood is wanted.

    Attributes:
        inputs: What the model reads; the last continuation token is not among them.
        target: The continuation, predicted at the last `len(target)` positions of `inputs`.
    """

    inputs: Tokens
    target: Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Tokens to be continued greedily.

    Attributes:
        inputs: The prompt.
        until: Texts that end the answer; they are cut off.
        max_new_tokens: Greatest length of the answer.
    """

    inputs: Tokens
    until: tuple[str, ...]
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRequest:
    """One request: the log-likelihoods to add up, or the prompt to answer.

    Attributes:
        kind: lm-eval's request type.
        continuations: Several for a text longer than the model's window, else one.
        prompt: Of a `generate_until` request.
    """

    kind: str
    continuations: tuple[Continuation, ...] = ()
    prompt: Prompt | None = None


class Truncated(str):
    """An answer that the limit of tokens cut off."""

    __slots__ = ()


class Tokenizer:
    """Tokenises requests with lm-eval's Hugging Face backend.

    Args:
        model: The model; only its configuration is read.
        tokenizer: Its tokenizer.

    Attributes:
        ends: Tokens that end an answer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from lm_eval.models.huggingface import HFLM

        class Recorder(HFLM):  # type: ignore[misc]  # lm_eval ships no types
            """Returns the token ids it is given instead of running the model."""

            def _loglikelihood_tokens(
                self, requests: list[tuple[Any, list[int], list[int]]], **_: object
            ) -> list[tuple[list[int], list[int]]]:
                return [(context, continuation) for _, context, continuation in requests]

        self._backend = Recorder(pretrained=model, tokenizer=tokenizer)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.ends: set[int] = {*ends, self._backend.eot_token_id} - {None}

    @property
    def max_length(self) -> int:
        """The model's window, in tokens."""
        return int(self._backend.max_length)

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        return int(self._backend.tokenizer.pad_token_id)

    @property
    def chat_template(self) -> Any:
        """lm-eval's function that writes a chat as one text."""
        return self._backend.apply_chat_template

    def prepare(self, requests: Sequence[Any]) -> list[PreparedRequest]:
        """Tokenise lm-eval requests."""
        return [getattr(self, f"_{request.request_type}")(request) for request in requests]

    def ended(self, answers: Sequence[tuple[Sequence[int], Sequence[str]]]) -> list[bool]:
        """Whether each answer, given with its stop texts, is complete."""
        return [
            tokens[-1] in self.ends or self._holds_stop(tokens, until) for tokens, until in answers
        ]

    def _holds_stop(self, tokens: Sequence[int], until: Sequence[str]) -> bool:
        # One that was met earlier has ended the answer already; no token is shorter than a byte.
        reach = max((len(stop.encode()) for stop in until), default=0)
        tail = self._backend.tok_decode(list(tokens[-reach - 1 :]))
        met = [stop for stop in until if stop and stop in tail]
        # Where a tail begins may decide how it is read.
        return bool(met) and any(map(self._backend.tok_decode(list(tokens)).__contains__, met))

    def stopping(self, until: Sequence[str], prompt_length: int, rows: int) -> Any:
        """lm-eval's criterion that ends generation when every row has met a stop text."""
        from lm_eval.models.utils_hf import stop_sequences_criteria

        tokenizer = self._backend.tokenizer
        return stop_sequences_criteria(tokenizer, list(until), prompt_length, rows)

    def answer(self, tokens: Sequence[int], until: Sequence[str]) -> str:
        """The text of generated tokens, cut at the first stop text; `Truncated` if none is met."""
        from lm_eval.models.utils import postprocess_generated_text

        (ended,) = self.ended([(tokens, until)])
        text = self._backend.tok_decode(list(tokens))
        answer = str(postprocess_generated_text(text, list(until), think_end_token=None))
        return answer if ended else Truncated(answer)

    def _loglikelihood(self, request: Any) -> PreparedRequest:
        ((context, target),) = self._backend.loglikelihood([request], disable_tqdm=True)
        return PreparedRequest(
            kind="loglikelihood", continuations=(self._continuation(context, target),)
        )

    def _loglikelihood_rolling(self, request: Any) -> PreparedRequest:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self._backend.tok_encode(request.args[0]),
            prefix_token=self._backend.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        pairs = map(make_disjoint_window, windows)
        return PreparedRequest(
            kind="loglikelihood_rolling",
            continuations=tuple(self._continuation(*pair) for pair in pairs),
        )

    def _generate_until(self, request: Any) -> PreparedRequest:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        text, settings = request.args
        settings = normalize_gen_kwargs(settings, self._backend.max_gen_toks)
        end = self._backend.tok_decode(self._backend.eot_token_id, skip_special_tokens=False)
        length = settings["max_gen_toks"]
        if not 0 < length < self.max_length:
            raise TaskError(
                f"max_gen_toks: {length} is not between 1 and the model's window of "
                f"{self.max_length} tokens"
            )
        ids, _ = self._backend.tok_batch_encode([text], left_truncate_len=self.max_length - length)
        prompt = Prompt(
            inputs=tuple(ids[0].tolist()),
            until=tuple(handle_stop_sequences(settings["until"], eos=end)),
            max_new_tokens=length,
        )
        return PreparedRequest(kind="generate_until", prompt=prompt)

    def _continuation(self, context: Sequence[int], target: Sequence[int]) -> Continuation:
        # Too long a context loses its beginning; the last token is only predicted, never read.
        whole = (*context, *target)[-(self.max_length + 1) :]
        return Continuation(inputs=whole[:-1], target=tuple(target))
