"""Greedy answers to prompts: a row that is done makes room for the next prompt."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import EvaluationError
from evomerge.evaluation.passes.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.passes.forward import Forward
    from evomerge.evaluation.passes.tokens import Prompt, Tokenizer

KEPT_PER_READ = 8
"""How many times the tokens of one forward pass may be kept for those to come to attend to."""

DROP = 1 / 8
"""Share of the rows that must be done before what is kept of the others is moved together."""

REFILL = 0.75
"""Share of the rows below which new prompts are read: reading few at a time wastes passes."""


@dataclass(slots=True)
class _Row:
    """A prompt that is being answered."""

    prompt: Prompt
    answer: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def length(self) -> int:
        """Tokens that are attended to."""
        return len(self.prompt.inputs) + len(self.answer)

    @property
    def longest(self) -> int:
        """Tokens that may have to be attended to."""
        return len(self.prompt.inputs) + self.prompt.max_new_tokens


class Generation:
    """Continues prompts greedily with a model that sees all that comes before.

    Rows are left-padded, for they end at the same place. What comes together in a pass depends on
    prompts and answers alone, so the same weights always give the same answers.

    Args:
        forward: The model.
        tokenizer: Its tokenizer.
        batch_tokens: Most tokens of one forward pass, padding included.
    """

    def __init__(self, forward: Forward, tokenizer: Tokenizer, batch_tokens: int) -> None:
        self._forward, self._tokenizer = forward, tokenizer
        self._read, self._kept = batch_tokens, batch_tokens * KEPT_PER_READ

    @torch.inference_mode()
    def run(self, prompts: Sequence[Prompt]) -> list[str]:
        """Answer prompts; equal ones are answered once.

        Raises:
            EvaluationError: Logits are not finite; the model is broken.
        """
        rows = {prompt: _Row(prompt) for prompt in prompts}
        waiting = deque(sorted(rows.values(), key=lambda row: -row.longest))
        live: list[_Row] = []
        keys = Keys()
        while waiting or live:
            if new := self._next(waiting, live):
                read = self._begin(new)
                keys = keys.beside(read) if live else read
                live += new
            else:
                self._go_on(live, keys)
            live, keys = _without_done(live, keys)
        return [self._tokenizer.answer(rows[prompt].answer, prompt.until) for prompt in prompts]

    def _next(self, waiting: deque[_Row], live: Sequence[_Row]) -> list[_Row]:
        """The prompts to be read now."""
        width = max((row.longest for row in live), default=0)
        longest = count = 0
        for row in waiting:
            width, longest = max(width, row.longest), max(longest, row.length)
            rows = len(live) + count + 1
            full = rows * width > self._kept or (count + 1) * longest > self._read
            if full and rows > 1:
                break
            count += 1
        few = count < len(waiting) and len(live) > REFILL * (len(live) + count)
        return [] if few else [waiting.popleft() for _ in range(count)]

    def _begin(self, rows: Sequence[_Row]) -> Keys:
        width = max(row.length for row in rows)
        pad = self._tokenizer.pad_id
        ids = [(pad,) * (width - row.length) + row.prompt.inputs for row in rows]
        name = tuple(row.prompt for row in rows)
        logits, keys = self._forward.read(torch.tensor(ids), _mask(rows, width), name=name)
        if not logits.isfinite().all():
            raise EvaluationError("logits are NaN or infinite")
        self._append(rows, logits)
        return keys

    def _go_on(self, rows: Sequence[_Row], keys: Keys) -> None:
        last = torch.tensor([[row.answer[-1]] for row in rows])
        logits, _ = self._forward.read(last, _mask(rows, keys.length + 1), keys)
        self._append(rows, logits)

    def _append(self, rows: Sequence[_Row], logits: Tensor) -> None:
        for row, token in zip(rows, logits.argmax(dim=1).tolist(), strict=True):
            if not row.done:
                row.answer.append(token)
        ended = self._tokenizer.ended([(row.answer, row.prompt.until) for row in rows])
        for row, stopped in zip(rows, ended, strict=True):
            row.done = stopped or len(row.answer) == row.prompt.max_new_tokens


def _without_done(rows: list[_Row], keys: Keys) -> tuple[list[_Row], Keys]:
    """The rows that go on, once enough others are done: what is kept of them has to be moved."""
    going = [number for number, row in enumerate(rows) if not row.done]
    if not going:
        return [], Keys()
    if len(rows) - len(going) < DROP * len(rows):
        return rows, keys
    left = [rows[number] for number in going]
    # The newest token is not read yet.
    return left, keys.only(torch.tensor(going), max(row.length for row in left) - 1)


def _mask(rows: Sequence[_Row], width: int) -> Tensor:
    """1 for every token of a row, 0 for what lies on its left, shape `(rows, width)`."""
    lengths = torch.tensor([[row.length] for row in rows])
    return (torch.arange(width) >= width - lengths).long()
