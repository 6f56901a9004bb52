"""Forward passes over tokenised requests, in batches of bounded size."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from evomerge.evaluation.context import can_share, lay_out, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.evaluation.context import ContextRow
    from evomerge.evaluation.tokens import Continuation, PreparedRequest, Prompt, Tokenizer, Tokens

Row = TypeVar("Row", bound=Sized)

LogLikelihood = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding would have given it."""


class Scorer:
    """Answers prepared requests with a live model.

    The batches depend on the requests and on `batch_tokens` alone, so the same weights always give
    the same numbers on the same machine.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokeniser.
        batch_tokens: Most tokens of one forward pass, padding included.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, batch_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        parameters = inspect.signature(model.forward).parameters
        self._selects_logits = "logits_to_keep" in parameters
        self._shares_contexts = can_share(model)

    @torch.inference_mode()
    def run(self, requests: Sequence[PreparedRequest]) -> list[Any]:
        """Answer requests: a LogLikelihood, a float for rolling ones, a text for prompts."""
        continuations = [c for request in requests for c in request.continuations]
        likelihoods = iter(self._log_likelihoods(continuations))
        prompts = [request.prompt for request in requests if request.prompt]
        texts = iter(self._generate(prompts))
        answers: list[Any] = []
        for request in requests:
            if request.prompt:
                answers.append(next(texts))
                continue
            parts = [next(likelihoods) for _ in request.continuations]
            rolling = request.kind == "loglikelihood_rolling"
            answers.append(sum(value for value, _ in parts) if rolling else parts[0])
        return answers

    def _log_likelihoods(self, wanted: Sequence[Continuation]) -> list[LogLikelihood]:
        answers: list[LogLikelihood] = [(0.0, False)] * len(wanted)
        rows = rows_of(wanted, share=self._shares_contexts, most=self._batch_tokens)
        for batch in self._batches(rows, extra=0):
            first = min(len(row.context) for row in batch) - 1
            for row, logits in zip(batch, self._logits(batch, first), strict=True):
                for index, places in zip(row.wanted, row.predicting(), strict=True):
                    chosen = logits[[place - first for place in places]]
                    answers[index] = _score(chosen, wanted[index].target)
        return answers

    def _logits(self, rows: Sequence[ContextRow], first: int) -> Tensor:
        """Logits from place `first` on: float32, `(rows, longest - first, vocabulary)`."""
        inputs = lay_out(rows, self._tokenizer.pad_id)
        inputs = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"] = inputs["attention_mask"].to(self._model.dtype)
        if self._selects_logits:
            kept = inputs["input_ids"].shape[1] - first
            logits = self._model(**inputs, logits_to_keep=kept, use_cache=False).logits
        else:
            logits = self._model(**inputs, use_cache=False).logits[:, first:]
        return cast("Tensor", logits.float())

    def _generate(self, prompts: Sequence[Prompt]) -> list[str]:
        answers = [""] * len(prompts)
        alike: dict[tuple[tuple[str, ...], int], dict[Tokens, list[int]]] = defaultdict(dict)
        for index, prompt in enumerate(prompts):
            group = alike[prompt.until, prompt.max_new_tokens]
            group.setdefault(prompt.inputs, []).append(index)
        for (until, length), sharing in alike.items():
            for rows in self._batches(list(sharing), extra=length):
                generated = self._continue(rows, until, length)
                for row, tokens in zip(rows, generated, strict=True):
                    for index in sharing[row]:
                        answers[index] = self._tokenizer.answer(tokens, until)
        return answers

    def _continue(
        self, rows: Sequence[Tokens], until: Sequence[str], length: int
    ) -> list[list[int]]:
        longest = max(len(row) for row in rows)
        pad, device = self._tokenizer.pad_id, self._model.device
        ids = torch.tensor([(pad,) * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor(
            [(0,) * (longest - len(row)) + (1,) * len(row) for row in rows], device=device
        )
        generated = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=length,
            do_sample=False,
            use_cache=True,
            pad_token_id=pad,
            stopping_criteria=self._tokenizer.stopping(until, longest, len(rows)),
        )
        return generated[:, longest:].tolist()  # type: ignore[no-any-return]

    def _batches(self, rows: Sequence[Row], extra: int) -> Iterator[list[Row]]:
        """Group rows of similar length, longest first, under the token limit."""
        batch: list[Row] = []
        for row in sorted(rows, key=lambda each: -len(each)):
            width = len(batch[0]) + extra if batch else 0
            if batch and (len(batch) + 1) * width > self._batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def _score(logits: Tensor, target: Tokens) -> LogLikelihood:
    wanted = torch.tensor(target, device=logits.device)
    chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
    return float(chosen.sum()), bool((logits.argmax(dim=1) == wanted).all())
