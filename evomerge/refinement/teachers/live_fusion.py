"""Several live teachers of one vocabulary become one, exactly.

What a cache can only approximate: `fuse` mixes whole distributions, `dynamic` carries over to a
large model what small ones learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.refinement.teachers.weights import teacher_weights

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.refinement.teachers.weights import Rule

STEP, STEPS = 0.1, 20
"""Strengths that are tried: multiples of the step from 0 to 2."""


def fuse(logits: Tensor, labels: Tensor, rule: Rule, *, per_token: bool = False) -> Tensor:
    """Make one teacher of several, at some positions of a pass.

    Args:
        logits: Of each teacher, shape `(teachers, n, vocabulary)`, floating point.
        labels: The tokens that follow, shape `(n,)`, int64; they decide on the weights.
        rule: How; see `teacher_weights`. `avg_logits` averages log-probabilities, which is the
            same as averaging logits.
        per_token: Whether weights are chosen for each token or once for all of these.

    Returns:
        Log-probabilities, shape `(n, vocabulary)`, float32.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    nll = -log_probs.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]
    weights = teacher_weights(nll, rule, per_token=per_token)[..., None]
    if rule == "avg_logits":
        return (weights * log_probs).sum(dim=0).log_softmax(dim=-1)
    return (weights.log() + log_probs).logsumexp(dim=0)


def dynamic(large: Tensor, base: Tensor, experts: Tensor) -> Tensor:
    """Dynamic Logits Fusion, Fan et al. 2024, https://arxiv.org/abs/2406.15480.

    Adds to the logits of a large model what an expert added to its small base, at each position
    as strongly as brings the Kullback-Leibler divergences from the large model, in both
    directions, nearest to those of the experts from their base. Of several experts only one is
    active at a position, as in the paper's search.

    Args:
        large: Logits of the large model, shape `(n, vocabulary)`, floating point.
        base: Logits of the experts' small base, of the same shape.
        experts: Logits of the small experts, shape `(experts, n, vocabulary)`.

    Returns:
        What the large model predicts then: log-probabilities, shape `(n, vocabulary)`, float32.
    """
    large, base, experts = large.float(), base.float(), experts.float()
    start, small, moved = (each.log_softmax(dim=-1) for each in (large, base, experts))
    there, back = _divergence(moved, small), _divergence(small.expand_as(moved), moved)

    def objective(candidate: Tensor) -> Tensor:
        forth = _divergence(candidate, start) - there
        return (forth**2 + (_divergence(start, candidate) - back) ** 2).sum(dim=0)

    best, least = start, objective(start)
    for expert in experts:
        for step in range(1, STEPS + 1):
            candidate = (large + step * STEP * (expert - base)).log_softmax(dim=-1)
            found = objective(candidate)
            best = torch.where((found < least)[:, None], candidate, best)
            least = torch.minimum(found, least)
    return best


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The Kullback-Leibler divergence KL(p || q) over the last dimension."""
    p = log_p.exp()
    # A token without probability adds nothing, whatever q makes of it.
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)
