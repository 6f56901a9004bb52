"""Keeps freed memory in the process, where the C library would give it back to the system.

glibc gives the buffers of a merged block back as soon as they are freed, and logits of a wide
vocabulary too: what comes next gets fresh pages, which the kernel clears one by one. That took
longer than the arithmetic of a merge, and two fifths of the time of a loss on a CPU. All of this
holds for the whole process, and does nothing where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's settings, see mallopt(3)."""

BLOCKS = 4 * 2**20
"""Bytes up to which memory of merged blocks is kept; larger tensors are given back."""

_MOST = 2**31 - 1
_KEPT_BY_ITSELF = 32 * 2**20
"""Where glibc's own threshold ends up as a process frees ever larger memory."""


@functools.cache
def keep_freed_blocks() -> None:
    """Keep freed memory of a merge's blocks from now on."""
    _set({_MMAP_THRESHOLD: BLOCKS, _TRIM_THRESHOLD: 16 * BLOCKS, _TOP_PAD: 4 * BLOCKS})


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory of up to 2 GiB a piece, and give it back at the end."""
    _set({_MMAP_THRESHOLD: _MOST, _TRIM_THRESHOLD: _MOST})
    try:
        yield
    finally:
        _set({_MMAP_THRESHOLD: _KEPT_BY_ITSELF, _TRIM_THRESHOLD: 2 * _KEPT_BY_ITSELF})
        if library := _glibc():
            library.malloc_trim(0)


def _set(settings: dict[int, int]) -> None:
    if library := _glibc():
        for number, value in settings.items():
            library.mallopt(number, value)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
