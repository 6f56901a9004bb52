"""How large a teacher cache would be, and how much of the teacher it would keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.evaluation.passes.batches import token_batches
from evomerge.refinement.cache.shards import bytes_per_row
from evomerge.refinement.predictions.kept import Kept, concatenate
from evomerge.refinement.teachers.build import BATCH_TOKENS

if TYPE_CHECKING:
    from collections import abc

    from evomerge.refinement.teachers.teacher import Teacher
    from evomerge.refinement.texts.sequences import Sequence

SIZES = (8, 16, 32, 64, 128)
SAMPLES = 64
MAX_TAIL = 0.005
"""The mean probability of what is left out, up to which the likeliest tokens are enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptMass:
    """What a cache of the k likeliest tokens would be.

    Attributes:
        k: How many tokens are kept at a position.
        mass: Their mean probability together, in [0, 1].
        bytes: Size of the whole cache on disk.
    """

    k: int
    mass: float
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What caches of one teacher would be.

    Attributes:
        sequences: How many sequences were read.
        rows: How many positions the whole cache has.
        nll: Mean negative log-probability of the tokens that follow.
        sizes: By k, smallest first.
        enough: The smallest k that leaves out at most 0.5 % on average; none if even the largest
            leaves out more: then drawn tokens are the better choice.
    """

    sequences: int
    rows: int
    nll: float
    sizes: tuple[KeptMass, ...]
    enough: int | None


def estimate(teacher: Teacher, sequences: abc.Sequence[Sequence], vocabulary: int) -> Estimate:
    """Try a teacher on a few sequences, chosen by their content.

    Args:
        teacher: The teacher.
        sequences: All that it would be asked; at least one.
        vocabulary: How many tokens its tokenizer knows.
    """
    tried = sorted(sequences, key=lambda sequence: sequence.digest())[:SAMPLES]
    kept = Kept(vocabulary=vocabulary, k=max(SIZES))
    rows = concatenate(
        [
            rows
            for batch in token_batches(tried, BATCH_TOKENS)
            for rows in teacher.predict(batch, kept)
        ]
    )
    mass = rows.log_probs.double().exp().cumsum(dim=1).mean(dim=0)
    count = int(sum(sequence.supervised.sum() for sequence in sequences))
    sizes = []
    for k in SIZES:
        width = min(k, vocabulary)
        size = count * bytes_per_row(width, vocabulary)
        sizes.append(KeptMass(k=k, mass=float(mass[width - 1]), bytes=size))
    return Estimate(
        sequences=len(tried),
        rows=count,
        nll=float(rows.nll.mean(dtype=torch.float64)),
        sizes=tuple(sizes),
        enough=next((each.k for each in sizes if 1 - each.mass <= MAX_TAIL), None),
    )
