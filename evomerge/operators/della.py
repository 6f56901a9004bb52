"""Drop entries of task vectors at random, small ones more often, rescale, then merge.

Deep et al., "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based
Sampling", 2024, https://arxiv.org/abs/2406.11617, section 3 (MagPrune, then election and fusion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.operators.fuse import Entries, FusedLoop
from evomerge.operators.indicator import below, is_zero
from evomerge.operators.measure import measure
from evomerge.operators.parameters import Interval, Scale, Search, Weights
from evomerge.operators.randomness import Draws
from evomerge.operators.registry import operator
from evomerge.operators.sparsify import norm_factor
from evomerge.operators.task_arithmetic import add_weighted
from evomerge.operators.ties import merge_elected

if TYPE_CHECKING:
    from evomerge.operators.chunks import Chunks

MagPruneRescale = Literal["probability", "norm", "none"]
# Every pair of values of these two ranges is allowed.
MagPruneDensities = Annotated[Sequence[float], Interval(0.0, 1.0), Search(0.2, 0.8)]
Epsilons = Annotated[Sequence[float], Interval(0.0, 0.5), Search(0.0, 0.15)]


def row_ranks(delta: Tensor) -> Tensor:
    """Rank the magnitudes of each row: 0 for the smallest, of equal ones first the first.

    Args:
        delta: Task vector of one parameter, shape `(*S,)`; rows lie along the last axis, a vector
            is one row.

    Returns:
        Shape `(*S,)`, int32: compiled loops go through int16 one entry at a time.
    """
    length = _row_length(delta)
    places = torch.arange(length, dtype=torch.int32)
    rows = delta.reshape(delta.numel() // max(1, length), length)
    ranks = torch.empty(rows.shape, dtype=places.dtype)
    # Few enough for the cache.
    count = max(1, (1 << 17) // max(1, length))
    for some, of_some in zip(*(torch.split(t, count) for t in (rows, ranks)), strict=True):
        of_some.scatter_(1, _order(some.abs()), places.expand_as(of_some))
    return ranks.view(delta.shape)


def _order(magnitudes: Tensor) -> Tensor:
    """The places of each row's entries in rising order; of equal ones first the first."""
    if magnitudes.dtype != torch.float32:
        return magnitudes.argsort(dim=1, stable=True)
    # The bits of a positive float32 sort as it does. With its place behind them no two keys are
    # equal, so that any sort will do; that of numpy takes half the time of torch's.
    keys = magnitudes.view(torch.int32).to(torch.int64) << 32 | torch.arange(magnitudes.shape[1])
    keys.numpy().sort(axis=1)
    return keys & 0xFFFF_FFFF


def _row_length(delta: Tensor) -> int:
    return delta.shape[-1] if delta.ndim else 1


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
        Shape `(2,)`: the greatest rank in a row, and the factor on what is kept.
    """
    last = max(0, _row_length(delta.source) - 1)
    if rescale != "norm" or density >= 1:
        return torch.tensor([last, 1.0], dtype=delta.dtype)
    numbers = torch.tensor([last, density, epsilon], dtype=delta.dtype)
    flat = ranks.reshape(-1)

    def thin(piece: Tensor, where: slice, own: Draws) -> Tensor:
        kept = torch.empty_like(piece)
        entries = {"delta": [piece], "ranks": [flat[where]]}
        _pruning(entries, {"numbers": numbers, "draws": [own]}, kept)
        return kept

    return torch.tensor([last, norm_factor(delta, draws, thin)], dtype=delta.dtype)


@FusedLoop
def _pruning(entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
    (delta,), (ranks,), (own,) = entries["delta"], entries["ranks"], arguments["draws"]
    chance = _chance(ranks, *arguments["numbers"])
    out.copy_(delta * below(own.uniform(delta.shape), chance))


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
    density: MagPruneDensities = (0.7,),
    epsilon: Epsilons = (0.07,),
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
        measured: Greatest rank and factor of each source, shape `(M, 2)`, see `magprune_facts`.
        ranks: What `row_ranks` gives for each task vector, shape `(M, *S)`.

    Returns:
        Merged task vector, shape `(*S,)`, the dtype of `deltas`.
    """
    chances = _chances(density, epsilon, measured, ranks)
    pruned = _prune(deltas, chances, rescale, draws, measured)
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
    density: MagPruneDensities = (0.7,),
    epsilon: Epsilons = (0.07,),
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
    chances = _chances(density, epsilon, measured, ranks)
    pruned = _prune(deltas, chances, rescale, draws, measured)
    return add_weighted(pruned, weight, scale=scale, normalize=normalize)


def _chances(
    density: Sequence[float], epsilon: Sequence[float], measured: Tensor, ranks: Sequence[Tensor]
) -> list[Tensor]:
    per_source = zip(ranks, measured, density, epsilon, strict=True)
    return [_chance(own, facts[0], d, e) for own, facts, d, e in per_source]


def _chance(
    ranks: Tensor, last: Tensor, density: float | Tensor, epsilon: float | Tensor
) -> Tensor:
    """The chance of each entry to be kept, 2 epsilon r / (n - 1) above density - epsilon."""
    # Counted from the middle, rows of one entry need no rule of their own.
    height = (2 * ranks.to(last.dtype) - last) / last.clamp(min=1)
    whole = torch.as_tensor(density) >= 1
    return torch.where(whole, 1.0, density + epsilon * height)


def _prune(
    deltas: Tensor,
    chances: Sequence[Tensor],
    rescale: MagPruneRescale,
    draws: Sequence[Draws],
    measured: Tensor,
) -> list[Tensor]:
    pruned = []
    for delta, chance, own, facts in zip(deltas, chances, draws, measured, strict=True):
        # An entry without a chance is never kept.
        likely = chance + is_zero(chance)
        made_up = delta / likely if rescale == "probability" else delta * facts[1]
        pruned.append(made_up * below(own.uniform(delta.shape), chance))
    return pruned
