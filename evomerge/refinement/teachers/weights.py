"""Which teacher is listened to, and how much.

By the domain of an example, or by how well a teacher predicts the tokens that follow: the lowest
cross entropy (MinCE) and FuseLLM's average (AvgCE), Wan et al. 2024,
https://arxiv.org/abs/2401.10491.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from evomerge.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Rule = Literal["min_ce", "avg_logits", "avg_probs", "ce_weighted", "avg_ce"]
"""How teachers become one: `avg_logits` takes the geometric mean, the others the arithmetic."""


def of_domain(domains: Sequence[str | None], domain: str | None) -> int:
    """Which teacher is the one for a domain; the first, if several are.

    Args:
        domains: The domain of each teacher.
        domain: The domain of an example.

    Raises:
        RecipeError: No teacher is for it.
    """
    if domain not in domains:
        known = sorted({each for each in domains if each})
        found = f"the domain {domain!r} has no teacher" if domain else "a text without a domain"
        hint = did_you_mean(domain, known) if domain else ""
        raise RecipeError(
            f"fuse: by_domain: {found}{hint}; teachers are there for "
            f"{', '.join(known) or 'no domain'}; give one the domain, or fuse in another way"
        )
    return domains.index(domain)


def teacher_weights(nll: Tensor, rule: Rule, *, per_token: bool = False) -> Tensor:
    """How much each teacher counts, by how well it predicts the tokens that follow.

    Args:
        nll: Negative log-probabilities of these tokens, shape `(teachers, n)`, n > 0.
        rule: `min_ce` takes the teacher with the lowest cross entropy (the first of equal ones),
            `ce_weighted` the softmax of minus the cross entropies, `avg_ce` that of their
            exponentials as FuseLLM does, which is nearly uniform; the others take all alike.
        per_token: Whether each token has weights of its own; else a sequence has, by the mean.

    Returns:
        Weights that add up to 1 over teachers, shape `(teachers, n)`, or `(teachers, 1)` for a
        whole sequence.
    """
    cross_entropy = nll if per_token else nll.mean(dim=1, keepdim=True)
    match rule:
        case "min_ce":
            best = cross_entropy.argmin(dim=0, keepdim=True)
            return torch.zeros_like(cross_entropy).scatter_(0, best, 1.0)
        case "ce_weighted":
            return (-cross_entropy).softmax(dim=0)
        case "avg_ce":
            return (-cross_entropy).exp().softmax(dim=0)
        case _:
            return torch.full_like(cross_entropy, 1 / len(cross_entropy))
