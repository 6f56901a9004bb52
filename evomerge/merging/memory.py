"""Keeps memory at hand while tensors are merged, one after the other and block by block.

By default, glibc gives what was freed back to the system and asks for it again for the next block
or tensor; clearing its pages takes longer than the arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evomerge.merging.plan import TensorJob

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's settings, see mallopt(3)."""

BLOCKS = 4 << 20
"""Bytes up to which memory is kept; larger tensors are given back."""


@functools.cache
def keep_freed_blocks() -> None:
    """Tell the C library so, once for this process; without effect where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, BLOCKS)
        mallopt(_TRIM_THRESHOLD, 16 * BLOCKS)
        mallopt(_TOP_PAD, 4 * BLOCKS)


class Room:
    """Room for the results of some merges at a time, used again and again.

    Args:
        jobs: Whose results it is for; each place is as large as the largest.
    """

    def __init__(self, jobs: Iterable[TensorJob]) -> None:
        sizes = (math.prod(job.shape) * job.dtype.itemsize for job in jobs)
        self._bytes = max(sizes, default=0) or 1
        self._free: list[torch.Tensor] = []

    def take(self, job: TensorJob) -> torch.Tensor:
        """A tensor for the result of a job, with arbitrary values.

        `give_back` makes its place free for another.
        """
        place = self._free.pop() if self._free else self._place()
        size = math.prod(job.shape) * job.dtype.itemsize
        return place[:size].view(job.dtype).view(job.shape)

    def give_back(self, tensor: torch.Tensor) -> None:
        """Use the place of a tensor for another one."""
        self._free.append(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()))

    def _place(self) -> torch.Tensor:
        memory = mmap.mmap(-1, self._bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(memory, dtype=torch.uint8)
