"""Sequences side by side in packs, so that hardly any of what a model reads is padding.

The sequences of a pack do not see each other: positions begin anew with each of them, which is
what models of transformers tell them apart by as long as they are given no attention mask and keep
no cache. `keeps_apart` finds out whether a model does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections import abc

    from evomerge.refinement.texts.sequences import Sequence

WINDOW = 1024
"""Sequences that are put into packs together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """Sequences that are read one behind the other.

    Attributes:
        sequences: The sequences, in the order they are in.
    """

    sequences: tuple[Sequence, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sequences))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Packs that are read at once, padded on the right.

    Attributes:
        ids: Tokens, shape `(packs, longest)`, int64.
        positions: Where each token is in its sequence, of the same shape.
        supervised: Which tokens are to be predicted, of the same shape, bool: never the first of
            a sequence, which the one before must not predict, and no padding.
        indices: The examples, in the order in which their supervised tokens come, row by row.
    """

    ids: Tensor
    positions: Tensor
    supervised: Tensor
    indices: tuple[int, ...]

    def predicting(self) -> Tensor:
        """The places whose hidden states predict the supervised tokens, in the same order.

        Returns:
            Indices into hidden states of shape `(packs * longest, width)`, int64.
        """
        return self.supervised.flatten().nonzero()[:, 0] - 1

    def labels(self) -> Tensor:
        """The supervised tokens, shape `(supervised,)`, int64."""
        return self.ids[self.supervised]


def pack(
    sequences: abc.Sequence[Sequence], length: int, *, seed: int, epoch: int = 0
) -> list[Pack]:
    """Put each sequence whole into one pack; which go together changes with seed and epoch.

    First-fit decreasing leaves few gaps but puts sequences of like length together, and takes as
    many steps as there are sequences times packs. So it is done for some of the shuffled
    sequences at a time: that many fill packs as well, and the order stays random.

    Args:
        sequences: The sequences.
        length: Most tokens of a pack.
        seed: Names the order, together with the epoch.
        epoch: How often the sequences have been read before.

    Raises:
        RecipeError: A sequence is longer than a pack.
    """
    longest = max(map(len, sequences), default=0)
    if longest > length:
        raise RecipeError(
            f"a sequence of {longest} tokens does not fit a pack of {length}; cut sequences to "
            "fewer tokens, or make packs longer"
        )
    rng = generator(seed, "packing", str(epoch))
    order = [sequences[n] for n in torch.randperm(len(sequences), generator=rng).tolist()]
    packs = [
        Pack(sequences=tuple(members))
        for start in range(0, len(order), WINDOW)
        for members in _first_fit_decreasing(order[start : start + WINDOW], length)
    ]
    return [packs[n] for n in torch.randperm(len(packs), generator=rng).tolist()]


def _first_fit_decreasing(sequences: list[Sequence], length: int) -> list[list[Sequence]]:
    packs: list[list[Sequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        size = len(sequence)
        fits = next((n for n, free in enumerate(room) if free >= size), None)
        if fits is None:
            packs.append([])
            room.append(length)
            fits = -1
        packs[fits].append(sequence)
        room[fits] -= size
    return packs


def lay_out(packs: abc.Sequence[Pack]) -> Batch:
    """Put packs into one batch, each in a row of its own."""
    shape = len(packs), max(map(len, packs))
    ids, supervised = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    # Padding goes on with the last sequence, so that rows with one sequence need no mask.
    positions = torch.arange(shape[1]).repeat(len(packs), 1)
    for row, each in enumerate(packs):
        start = 0
        for sequence in each.sequences:
            stop = start + len(sequence)
            ids[row, start:stop] = sequence.ids
            supervised[row, start + 1 : stop] = sequence.supervised[1:]
            positions[row, start:] = torch.arange(shape[1] - start)
            start = stop
    indices = tuple(sequence.index for each in packs for sequence in each.sequences)
    return Batch(
        ids=ids,
        positions=positions,
        supervised=supervised,
        indices=indices,
    )


@torch.no_grad()
def keeps_apart(model: Any) -> bool:
    """Whether a model of transformers, in evaluation mode, reads packed sequences as if alone.

    Recurrent layers do not, nor do models whose masks ask nothing of positions (OPT, Falcon and
    GPT-OSS of transformers 5.23, for instance). What comes first in a pack is exchanged, which
    must not change what is predicted behind it.
    """
    first = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    ids = torch.cat([first, torch.tensor([[1, 2, 3, 4]] * 2)], dim=1)
    positions = torch.arange(4).repeat(2, 2)
    device = model.device
    inputs = {"input_ids": ids.to(device), "position_ids": positions.to(device)}
    one, other = model(**inputs, use_cache=False).logits[:, 4:]
    # Nothing that was computed differs then, but in models that sort their tokens by expert.
    rounding = 8 * torch.finfo(one.dtype).eps * one.abs().max()
    return bool((one - other).abs().max() <= rounding)
