"""Keeps freed memory in the process, where the C library would give it back at once.

Logits of a wide vocabulary are larger than what glibc keeps (32 MiB): each tensor of a chunk comes
in fresh pages, which the kernel clears one by one. That took two fifths of the time of such a
loss on a CPU.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The parameters of mallopt(3)."""
_MOST = 2**31 - 1
_KEPT_BY_ITSELF = 32 * 2**20
"""Where glibc's own threshold ends up as a process frees ever larger memory."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory of up to 2 GiB a piece, and give it back at the end.

    It holds for the whole process. Nothing happens where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _MOST)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _KEPT_BY_ITSELF)
        library.mallopt(_TRIM_THRESHOLD, 2 * _KEPT_BY_ITSELF)
        library.malloc_trim(0)
