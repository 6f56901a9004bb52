"""Weight task vectors by how sensitive their models' layers are and how their answers differ.

Liu et al., "Sens-Merging: Sensitivity-Guided Parameter Balancing for Merging Large Language
Models", 2025, https://arxiv.org/abs/2502.12420. Its text could not be read: the formulas follow
the authors' "Efficient Long-to-Short LLM Reasoning with Model Merging", 2025,
https://arxiv.org/abs/2503.20641, and what is ambiguous there can be chosen.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.operators.parameters import Densities, Interval, Scale, Search, Weights
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import trim, trim_threshold
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected

Tau = Literal["distance", "alignment"]
"""What speaks for a model: that it answers unlike the others, or like them."""

AlphaNorm = Literal["l2", "l2_sqrt", "max"]
"""What a layer's sensitivity is divided by: the norm over layers; that over the square root of
their number; the greatest."""

Temperature = Annotated[float, Interval(1e-6, 1e6), Search(0.01, 3.0, log=True)]

EPSILON = 1e-8


@operator(space="delta", elementwise=True)
def sens_merging(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    scale: Scale = 1.0,
    temperature: Temperature = 1.0,
    tau: Tau = "distance",
    alpha_norm: AlphaNorm = "l2",
    sensitivity: Tensor,
    distance: Tensor,
) -> Tensor:
    """Add up the task vectors, each layer shared among the models by a softmax.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M; the softmax multiplies it.
        scale: Factor on the merged task vector (lambda).
        temperature: Of the softmax; high ones give task arithmetic, low ones each layer to one
            model.
        tau: What speaks for a model.
        alpha_norm: What sensitivities are divided by.
        sensitivity: Of each source's layers, that of the tensor first, shape `(M, L)`.
        distance: Mean distance of the logits of i from those of j on texts of j, shape `(M, M)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    shares = _shares(sensitivity, distance, temperature, tau, alpha_norm).to(deltas[0].dtype)
    weights = shares * torch.as_tensor(weight, dtype=shares.dtype)
    return add_weighted(deltas, list(weights), scale=scale, normalize=False)


@operator(space="delta", elementwise=True, measure=trim_threshold)
def sens_merging_ties(
    deltas: Tensor,
    *,
    weight: Weights = (1.0,),
    density: Densities = (1.0,),  # noqa: ARG001 (is in the thresholds)
    scale: Scale = 1.0,
    normalize: bool = True,
    temperature: Temperature = 1.0,
    tau: Tau = "distance",
    alpha_norm: AlphaNorm = "l2",
    sensitivity: Tensor,
    distance: Tensor,
    measured: Tensor,
) -> Tensor:
    """Merge as `ties` does, each layer shared among the models by a softmax.

    Takes what `sens_merging` and `ties` take; the softmax multiplies the weights after trimming
    and before the sign is elected.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    shares = _shares(sensitivity, distance, temperature, tau, alpha_norm).to(deltas[0].dtype)
    weights = shares * torch.as_tensor(weight, dtype=shares.dtype)
    trimmed = [trim(delta, least) for delta, least in zip(deltas, measured, strict=True)]
    return merge_elected(trimmed, list(weights), scale=scale, normalize=normalize)


def _shares(
    sensitivity: Tensor,
    distance: Tensor,
    temperature: float | Tensor,
    tau: Tau,
    alpha_norm: AlphaNorm,
) -> Tensor:
    """M times the softmax over models, shape `(M,)`, float64: 1 on average."""
    sensitivity = sensitivity.double()
    count, layers = sensitivity.shape
    if alpha_norm == "max":
        divisor = sensitivity.amax(dim=1)
    else:
        divisor = sensitivity.square().sum(dim=1).sqrt()
    if alpha_norm == "l2_sqrt":
        divisor = divisor / layers**0.5
    alpha = sensitivity[:, 0] / torch.where(divisor > 0, divisor, 1.0)
    differing = distance.double().sum(dim=1)
    votes = differing if tau == "distance" else 1 / (EPSILON + differing)
    total = votes.sum()
    share = votes / torch.where(total > 0, total, 1.0)
    return torch.softmax(alpha * share / temperature, dim=0) * count
