"""Losses of whole rows of logits as their papers write them, for autograd; slow and plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(-1)[torch.arange(len(labels)), labels]


def divergence(logits: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    p, q = (logits / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    forward, reverse = (q * (q / p).log()).sum(-1), (p * (p / q).log()).sum(-1)
    if beta == 0:
        return temperature**2 * forward
    if beta == 1:
        return temperature**2 * reverse
    return temperature**2 * _jensen_shannon(p, q, beta)


def _jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    m = beta * q + (1 - beta) * p
    return beta * (q * (q / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1)


def standardise(logits: Tensor) -> Tensor:
    shifted = logits - logits.mean(-1, keepdim=True)
    variance = shifted.square().sum(-1, keepdim=True) / (logits.shape[-1] - 1)
    return shifted / (variance.sqrt() + 1e-7)


def top_k(logits: Tensor, ids: Tensor, q: Tensor, tail: str) -> Tensor:
    p = logits.softmax(-1).gather(-1, ids)
    mass = q.sum(-1)
    if tail == "renormalised":
        q = q / mass[:, None]
    losses = (q * (q / p).log()).sum(-1)
    if tail == "ghost" and ids.shape[-1] < logits.shape[-1]:
        left = 1 - p.sum(-1)
        losses = losses + (1 - mass) * ((1 - mass) / left).log()
    return losses


def uld(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * sorted_distance((logits / temperature).softmax(-1), teacher)


def sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    size = max(p.shape[-1], q.shape[-1])
    p, q = (
        torch.nn.functional.pad(each, (0, size - each.shape[-1])).sort(-1, descending=True).values
        for each in (p, q)
    )
    return (p - q).abs().sum(-1)


def standardised_kept(logits: Tensor, k: int, over: str) -> Tensor:
    """What InfiFusion compares of teacher and student, by the sum of absolute differences."""
    if over == "vocabulary":
        return standardise(logits).topk(k, -1).values.softmax(-1)
    return standardise(logits.topk(k, -1).values).softmax(-1)


def likelihood_matching(
    logits: Tensor, labels: Tensor, spans: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    of_rows = -cross_entropy(logits, labels)
    losses = [of_rows[:0].sum()] * len(labels)
    for (start, stop), likelihood in zip(spans.tolist(), teacher, strict=True):
        a = likelihood / temperature - 1e-6
        b = of_rows[start:stop].sum() / temperature - 1e-6
        losses[stop - 1] = -(a.exp() * b + (1 - a.exp()) * (1 - b.exp()).log())
    return torch.stack(losses)


def merged(logits: Tensor, labels: Tensor, spans: Tensor) -> Tensor:
    p = logits.softmax(-1)
    rows = []
    for start, stop in spans.tolist():
        row = p[stop - 1]
        for each in range(start, stop - 1):
            row = row * p[each, labels[each]]
        rows.append(row)
    return torch.stack(rows)


def merged_spans(
    p: Tensor, q: Tensor, pairs: tuple[Tensor, Tensor], weight: float, beta: float
) -> Tensor:
    left, right = (
        [each for each in range(of.shape[-1]) if each not in ids.tolist()]
        for of, ids in zip((p, q), pairs, strict=True)
    )
    matched = _jensen_shannon(p[:, pairs[0]], q[:, pairs[1]], beta)
    return weight * matched + (1 - weight) * sorted_distance(p[:, left], q[:, right])
