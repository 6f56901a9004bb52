"""Log-likelihoods of continuations: contexts are read once, and beginnings of contexts too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import EvaluationError
from evomerge.evaluation.passes.batches import token_batches
from evomerge.evaluation.passes.context import lay_out, rows_of
from evomerge.evaluation.passes.prefixes import shared_prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.passes.context import ContextRow
    from evomerge.evaluation.passes.forward import Forward, Place
    from evomerge.evaluation.passes.keys import Keys
    from evomerge.evaluation.passes.tokens import Continuation, Tokens

LogLikelihood = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding would have given it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows that are read together, behind what all of them begin with."""

    prefix: Tokens
    rows: tuple[ContextRow, ...]


class LikelihoodPlan:
    """Which forward passes answer for some continuations; the same for any weights.

    Args:
        wanted: The continuations.
        sees_all: Whether the model takes rows that share contexts.
        batch_tokens: Most tokens of one forward pass, padding included.
        pad: The token that fills rows up.

    Attributes:
        batches: What is read in each pass.
    """

    def __init__(
        self, wanted: Sequence[Continuation], *, sees_all: bool, batch_tokens: int, pad: int
    ) -> None:
        self._wanted = wanted
        self._pad = pad
        rows = rows_of(wanted, share=sees_all, most=batch_tokens)
        self.batches = [
            Batch(prefix=prefix, rows=tuple(batch))
            for prefix, members in _by_prefix(rows, share=sees_all)
            for batch in token_batches(members, batch_tokens)
        ]

    @torch.inference_mode()
    def run(self, forward: Forward) -> list[LogLikelihood]:
        """Answer for every continuation, in order.

        Raises:
            EvaluationError: A log-likelihood is not finite; the model is broken.
        """
        answers: list[LogLikelihood] = [(0.0, False)] * len(self._wanted)
        begun: Keys | None = None
        prefix: Tokens = ()
        for batch in self.batches:
            if batch.prefix is not prefix:
                prefix = batch.prefix
                begun = self._begin(forward, prefix) if prefix else None
            for index, logits in self._answer(forward, batch, begun):
                answers[index] = _score(logits, self._wanted[index].target)
                if not math.isfinite(answers[index][0]):
                    raise EvaluationError("log-likelihoods are NaN or infinite")
        return answers

    def _begin(self, forward: Forward, prefix: Tokens) -> Keys:
        return forward.read(torch.tensor([prefix]), name=(self, prefix))[1]

    def _answer(
        self, forward: Forward, batch: Batch, begun: Keys | None
    ) -> list[tuple[int, Tensor]]:
        """The logits that predict each continuation of a batch."""
        asked: dict[Place, int] = {}  # the end of a context predicts all of its continuations
        wanted = [
            (index, [asked.setdefault((number, place), len(asked)) for place in places])
            for number, row in enumerate(batch.rows)
            for index, places in zip(row.wanted, row.predicting(), strict=True)
        ]
        inputs = lay_out(batch.rows, self._pad, behind=len(batch.prefix))
        if begun is not None:
            inputs["past_key_values"] = begun.repeated(len(batch.rows)).cache
        logits = forward.logits(inputs, list(asked), name=(self, batch))
        return [(index, logits[places]) for index, places in wanted]


def _by_prefix(
    rows: Sequence[ContextRow], *, share: bool
) -> list[tuple[Tokens, list[ContextRow]]]:
    if not share:
        return [((), list(rows))]
    groups = []
    for sharing in shared_prefixes([row.context for row in rows]):
        members = [rows[member] for member in sharing.members]
        prefix = members[0].context[: sharing.length]
        groups.append((prefix, [row.behind(sharing.length) for row in members]))
    return groups


def _score(logits: Tensor, target: Tokens) -> LogLikelihood:
    wanted = torch.tensor(target, device=logits.device)
    chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1)
    return float(chosen.sum()), bool((logits.argmax(dim=1) == wanted).all())
