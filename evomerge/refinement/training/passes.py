"""The forward passes of a training: what is read, and what should be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from evomerge.refinement.predictions.targets import as_tensors, join
from evomerge.refinement.texts.packing import Pack, lay_out, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.recipe.refine import Training
    from evomerge.refinement.predictions.targets import TargetsOf
    from evomerge.refinement.texts import sequences

LEAST_LENGTH = 256
"""Tokens of a pack at least: attention within it costs little, and gaps are few."""


class Passes(Dataset[dict[str, Any]]):
    """Passes in the order in which they are read.

    Args:
        passes: The packs of each pass.
        targets: Of each teacher, its targets.
    """

    def __init__(
        self, passes: Sequence[Sequence[Pack]], targets: Sequence[TargetsOf] = ()
    ) -> None:
        self._passes, self._targets = passes, targets

    def __len__(self) -> int:
        return len(self._passes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = lay_out(self._passes[index])
        found: dict[str, Any] = {
            "ids": batch.ids,
            "positions": batch.positions,
            "predicting": batch.predicting(),
            "labels": batch.labels(),
        }
        for number, of in enumerate(self._targets):
            found |= as_tensors(join([of(index) for index in batch.indices]), number)
        return found

    def first(self, count: int) -> Passes:
        """The first so many passes, or all."""
        return Passes(self._passes[:count], self._targets)

    def tokens(self) -> int:
        """How many tokens are read."""
        return sum(len(each) for packs in self._passes for each in packs)

    def supervised(self) -> int:
        """How many tokens are to be predicted."""
        return sum(
            int(sequence.supervised.sum())
            for packs in self._passes
            for each in packs
            for sequence in each.sequences
        )


def plan_passes(
    read: Sequence[sequences.Sequence], settings: Training, *, packed: bool, epochs: int
) -> list[list[Pack]]:
    """Put sequences into packs and packs into passes, as often as they are read.

    Args:
        read: The sequences.
        settings: How large a pass is, how many tokens are read in all, and the seed.
        packed: Whether several sequences may stand in one row.
        epochs: How often each sequence is read.
    """
    longest = max(map(len, read))
    length = max(longest, min(settings.tokens_at_once, LEAST_LENGTH)) if packed else longest
    rows = max(1, settings.tokens_at_once // length)
    passes: list[list[Pack]] = []
    left = settings.tokens or sum(map(len, read)) * epochs
    for epoch in range(epochs):
        packs = pack(read, length, seed=settings.seed, epoch=epoch)
        if not packed:
            packs = [Pack(sequences=(each,)) for row in packs for each in row.sequences]
        for start in range(0, len(packs), rows):
            if left <= 0:
                return passes
            passes.append(packs[start : start + rows])
            left -= sum(map(len, passes[-1]))
    return passes
