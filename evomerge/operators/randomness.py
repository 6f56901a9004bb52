"""Random generators that are named, so that order, sharding and worker count cannot matter."""

from __future__ import annotations

import torch
from blake3 import blake3


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator seeded by `seed` and `names`, e.g. a tensor and a source."""
    text = "\0".join((str(seed), *names))
    # torch's CPU generator keeps 32 bits of its seed, so more would be lost silently.
    number = int.from_bytes(blake3(text.encode()).digest(length=4), "little")
    return torch.Generator().manual_seed(number)
