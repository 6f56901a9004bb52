"""What is kept of a teacher's predictions: the likeliest tokens, or a few drawn ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from evomerge.refinement.predictions.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is kept of a teacher's predictions.

    Attributes:
        vocabulary: How many tokens its tokenizer knows; a head may have more rows, which are left
            out as if they had no probability.
        kind: The likeliest tokens, or random draws.
        k: How many of them.
    """

    vocabulary: int
    kind: Literal["topk", "sampled"] = "topk"
    k: int = 64


def top_k(logits: Tensor, labels: Tensor, k: int) -> TopK:
    """Keep the likeliest tokens.

    Args:
        logits: Shape `(n, vocabulary)`, floating point; overwritten.
        labels: The tokens that follow, shape `(n,)`, int64.
        k: How many tokens are kept at most.

    Returns:
        Rows with the `k` likeliest tokens, or all if there are fewer.
    """
    log_probs = _normalised(logits)
    mean = log_probs.mean(dim=1)
    # Not torch.std, which warns where there are no rows.
    squares = (log_probs - mean[:, None]).square().sum(dim=1)
    deviation = (squares / (log_probs.shape[1] - 1)).sqrt()
    best = log_probs.topk(min(k, log_probs.shape[1]), dim=1)
    nll = -log_probs.gather(1, labels[:, None])[:, 0]
    # Adding up the others keeps the digits that 1 - sum(kept) would lose where little is left.
    tail = log_probs.scatter_(1, best.indices, -math.inf).logsumexp(dim=1)
    return TopK(
        ids=best.indices,
        log_probs=best.values,
        tail=tail,
        nll=nll,
        vocabulary=log_probs.shape[1],
        mean=mean,
        deviation=deviation,
    )


def sampled(logits: Tensor, labels: Tensor, uniform: Tensor) -> TopK:
    """Keep tokens that are drawn by their probability, with replacement.

    The share of draws that a token got is an unbiased estimate of its probability: random sampling
    knowledge distillation, Anshumann et al. 2025, https://arxiv.org/abs/2503.16870.

    Args:
        logits: Shape `(n, vocabulary)`, floating point; overwritten.
        labels: The tokens that follow, shape `(n,)`, int64.
        uniform: Numbers in [0, 1) that decide the draws, shape `(n, draws)`.

    Returns:
        Rows with the tokens that were drawn, those drawn most first, padded to as many as any row
        has; their log-probabilities are those of their shares, and there is no tail.
    """
    log_probs = _normalised(logits)
    vocabulary = log_probs.shape[1]
    nll = -log_probs.gather(1, labels[:, None])[:, 0]
    # Float32 cannot add up a hundred thousand small numbers well enough.
    reached = log_probs.double().exp_().cumsum(dim=1)
    wanted = uniform.double() * reached[:, -1:]
    drawn = torch.searchsorted(reached, wanted, right=True).clamp_(max=vocabulary - 1)
    drawn, order = drawn.sort(dim=1)
    is_first = torch.ones_like(drawn, dtype=torch.bool)
    is_first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    # Every draw is counted at the first place where its token stands.
    place = is_first.cumsum(dim=1) - 1
    counts = torch.zeros_like(drawn).scatter_add_(1, place, torch.ones_like(drawn))
    ids = torch.zeros_like(drawn).scatter_(1, place, drawn)
    counts, order = counts.sort(dim=1, descending=True, stable=True)
    width = int(is_first.sum(dim=1).max()) if len(drawn) else 0
    return TopK(
        ids=ids.gather(1, order)[:, :width],
        log_probs=(counts[:, :width].float() / drawn.shape[1]).log(),
        tail=torch.full_like(nll, -math.inf),
        nll=nll,
        vocabulary=vocabulary,
    )


def concatenate(rows: Sequence[TopK]) -> TopK:
    """Put rows of one vocabulary behind each other; shorter ones are filled up.

    Args:
        rows: At least one.
    """
    width = max(part.ids.shape[1] for part in rows)
    return TopK(
        ids=torch.cat([_filled(part.ids, width, 0) for part in rows]),
        log_probs=torch.cat([_filled(part.log_probs, width, -math.inf) for part in rows]),
        tail=torch.cat([part.tail for part in rows]),
        nll=torch.cat([part.nll for part in rows]),
        vocabulary=rows[0].vocabulary,
        mean=_if_known([part.mean for part in rows]),
        deviation=_if_known([part.deviation for part in rows]),
    )


def _if_known(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _filled(values: Tensor, width: int, value: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=value)


def _normalised(logits: Tensor) -> Tensor:
    logits = logits.float()
    return logits.sub_(logits.logsumexp(dim=1, keepdim=True))
