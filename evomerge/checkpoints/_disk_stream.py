"""A file that grows on disk while its next part is made.

Filling the page cache with gigabytes that nobody reads soon, and then waiting until they are on
disk, can take longer than a merge. So parts go to disk past the cache, by a thread of their own.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from pathlib import Path

PART_BYTES = 16 << 20
"""What is written at once: whole blocks of any disk."""

_DIRECT = getattr(os, "O_DIRECT", 0)
"""Past the page cache; 0 where the system has no such way."""


@final
class DiskStream:
    """A new file, written from front to back at the speed of the disk.

    What is written out of order, and what disks refuse to take past the page cache, goes through
    the cache. Memory: two parts.

    Args:
        file: Must not exist.

    Raises:
        OSError: From every method, also for what was written before.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._direct(wanted=True)
        self._start = self._filled = 0
        # Memory that is mapped begins where a page begins, as the way past the cache needs it.
        memory = (mmap.mmap(-1, PART_BYTES) for _ in range(2))
        self._parts = [torch.frombuffer(each, dtype=torch.uint8) for each in memory]
        self._thread = ThreadPoolExecutor(1, "evomerge-write")
        self._written: Future[None] | None = None

    def write(self, offset: int, content: torch.Tensor) -> None:
        """Write bytes, shape `(n,)`, uint8, to a place; they are copied before this returns."""
        if offset != self._start + self._filled:
            self._finish_in_order()
            self._start = offset
        while content.numel():
            taken = content[: PART_BYTES - self._filled]
            self._parts[0][self._filled : self._filled + taken.numel()].copy_(taken)
            self._filled += taken.numel()
            content = content[taken.numel() :]
            if self._filled == PART_BYTES:
                self._pass_on()

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._finish_in_order()
        os.fsync(self._descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Stop writing; without effect after `close`."""
        self._thread.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _finish_in_order(self) -> None:
        # What is left is no whole number of blocks, nor begins what follows at one.
        self._wait()
        self._direct(wanted=False)
        self._pass_on()
        self._wait()

    def _pass_on(self) -> None:
        self._wait()
        part = self._parts[0][: self._filled]
        self._written = self._thread.submit(self._put, self._start, part)
        self._parts.reverse()
        self._start += self._filled
        self._filled = 0

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _put(self, offset: int, part: torch.Tensor) -> None:
        view = part.numpy().data
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct(wanted=False):
                    raise
                continue
            view, offset = view[count:], offset + count

    def _direct(self, *, wanted: bool) -> bool:
        """Write past the page cache from now on, or through it; whether that is a change."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        changed = flags | _DIRECT if wanted else flags & ~_DIRECT
        with suppress(OSError):  # some file systems know no other way than through it
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, changed)
        return changed != flags
