"""Drop entries of task vectors at random, small ones more often, rescale, then merge.

Deep et al., "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based
Sampling", 2024, https://arxiv.org/abs/2406.11617, section 3 (MagPrune, then election and fusion).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.chunks import CHUNK, Chunks
from evomerge.operators.indicator import below, is_zero
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator
from evomerge.operators.select import order_of_rows
from evomerge.operators.sparsify import norm_factor
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected

MagPruneRescale = Literal["probability", "norm", "none"]
# Every pair of values of these two ranges is allowed.
MagPruneDensities = Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.2, 0.8)]
Epsilons = Annotated[Sequence[float], Interval(0.0, 0.5), Search(0.0, 0.15)]


TOP = 2048
"""The greatest rank in a row; up to here float16 holds every whole number."""


def row_ranks(delta: Chunks) -> Tensor:
    """Rank the magnitudes of each row: 0 for the smallest, of equal ones first the first.

    Args:
        delta: Task vector of one parameter, shape `(*S,)`; rows lie along the last axis, a vector
            is one row.

    Returns:
        Shape `(*S,)`, float16. In rows of more than `TOP + 1` entries the greatest is `TOP`, and
        the others are as much smaller: a chance needs no more, and half the memory is half the
        time.
    """
    length = max(1, _row_length(delta.source))
    places = torch.arange(length, dtype=torch.float64)
    # Their bits are moved: torch does that several times faster than with float16.
    places = (places * (_top(length) / max(1, length - 1))).to(torch.float16).view(torch.int16)
    ranks = torch.empty(delta.source.shape, dtype=places.dtype)
    flat = ranks.view(-1)
    for where in delta.cuts(max(1, CHUNK // length) * length):
        magnitudes = delta.take(where).abs_().view(-1, length)
        own = flat[where].view(-1, length)
        own.scatter_(1, order_of_rows(magnitudes), places.expand_as(own))
    return ranks.view(torch.float16)


def _row_length(delta: Tensor) -> int:
    return delta.shape[-1] if delta.ndim else 1


def _top(length: int) -> int:
    return min(max(0, length - 1), TOP)


@measure("chunks")
def magprune_facts(
    delta: Chunks,
    *,
    density: float,
    epsilon: float,
    rescale: MagPruneRescale,
    draws: Draws,
    ranks: Tensor,
) -> Tensor:
    """What must be known of a whole task vector before it can be pruned entry by entry.

    Args:
        delta: Task vector of one parameter.
        density: Mean chance of an entry to be kept.
        epsilon: How much the chances of the smallest and of the largest entry differ from that.
        rescale: How kept entries make up for dropped ones.
        draws: Draws the mask.
        ranks: What `row_ranks` gives for the task vector.

    Returns:
        Shape `(3,)`: the chance of rank 0, how much it rises from rank to rank, and the factor on
        what is kept.
    """
    top = _top(_row_length(delta.source))
    # In rows of one entry, it has the mean chance.
    lowest, rise = (density - epsilon, 2 * epsilon / top) if top else (density, 0.0)
    facts = torch.tensor([lowest, rise, 1.0], dtype=delta.dtype)
    if density >= 1:
        return facts.new_tensor([1.0, 0.0, 1.0])
    if rescale == "norm":
        flat = ranks.reshape(-1)

        def thin(piece: Tensor, where: slice, own: Draws) -> Tensor:
            return piece * below(own.coarse(piece.shape), _chance(flat[where], facts))

        facts[2] = norm_factor(delta, draws, thin)
    return facts


def _chances_are_chances(
    *, density: Sequence[float], epsilon: Sequence[float], **_: object
) -> None:
    for mean, spread in zip(density, epsilon, strict=True):
        if mean < 1 and not 0 < mean - spread <= mean + spread < 1:
            raise MergeError(
                f"density, epsilon: {mean:g} - {spread:g} and {mean:g} + {spread:g} must lie "
                "between 0 and 1; lower epsilon, or set density to 1 to keep every entry"
            )


@operator(
    space="delta",
    elementwise=True,
    measure=magprune_facts,
    derived={"ranks": row_ranks},
    check=_chances_are_chances,
)
def della(
    deltas: Tensor,
    *,
    weight: Weights,
    density: MagPruneDensities = (0.7,),  # noqa: ARG001 (is in what is measured)
    epsilon: Epsilons = (0.07,),  # noqa: ARG001 (the same)
    scale: Scale = 1.0,
    normalize: bool = True,
    rescale: MagPruneRescale = "probability",
    draws: Sequence[Draws],
    measured: Tensor,
    ranks: Sequence[Tensor],
) -> Tensor:
    """Thin task vectors by magnitude and at random, then keep what agrees with the elected sign.

    The chance of an entry to be kept rises with its rank in its row from `density - epsilon` to
    `density + epsilon`; in rows of one entry it is `density`. The sign is elected as in `ties`.

    Args:
        deltas: Task vectors of one parameter, shape `(M, *S)`, floating point.
        weight: Mixing coefficient of each source, length M.
        density: Mean chance of an entry to be kept, length M; 1 drops nothing.
        epsilon: How much the chances differ from that, length M (half the paper's window).
        scale: Factor on the merged task vector (lambda).
        normalize: Divide each entry by the sum of the weights that took part in it.
        rescale: How kept entries make up for dropped ones: `probability` divides each by its
            chance (the paper), `norm` restores the L1 norm (mergekit), `none` does nothing.
        draws: Random numbers of each source, length M.
        measured: Chances and factor of each source, shape `(M, 3)`, see `magprune_facts`.
        ranks: What `row_ranks` gives for each task vector, shape `(M, *S)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    pruned = _prune(deltas, ranks, rescale, draws, measured)
    return merge_elected(pruned, weight, scale=scale, normalize=normalize)


@operator(
    space="delta",
    elementwise=True,
    measure=magprune_facts,
    derived={"ranks": row_ranks},
    check=_chances_are_chances,
)
def della_linear(
    deltas: Tensor,
    *,
    weight: Weights,
    density: MagPruneDensities = (0.7,),  # noqa: ARG001 (is in what is measured)
    epsilon: Epsilons = (0.07,),  # noqa: ARG001 (the same)
    scale: Scale = 1.0,
    normalize: bool = False,
    rescale: MagPruneRescale = "probability",
    draws: Sequence[Draws],
    measured: Tensor,
    ranks: Sequence[Tensor],
) -> Tensor:
    """Add up task vectors thinned by magnitude and at random, each times its weight.

    Takes and returns what `della` does, but `normalize` divides by the sum of all weights.
    """
    pruned = _prune(deltas, ranks, rescale, draws, measured)
    return add_weighted(pruned, weight, scale=scale, normalize=normalize)


def _chance(ranks: Tensor, facts: Tensor) -> Tensor:
    """The chance of each entry to be kept."""
    return facts[0] + facts[1] * ranks.to(facts.dtype)


def _prune(
    deltas: Tensor,
    ranks: Sequence[Tensor],
    rescale: MagPruneRescale,
    draws: Sequence[Draws],
    measured: Tensor,
) -> list[Tensor]:
    pruned = []
    for delta, own_ranks, own, facts in zip(deltas, ranks, draws, measured, strict=True):
        chance = _chance(own_ranks, facts)
        kept = delta * below(own.coarse(delta.shape), chance)
        if rescale == "probability":
            pruned.append(kept / (chance + is_zero(chance)))  # without a chance, none is kept
        else:
            pruned.append(kept * facts[2])
    return pruned
