"""Keeps freed memory at hand while tensors are merged block by block.

By default, glibc gives the buffers of a block back to the system as soon as they are freed, and
asks for them again for the next block; clearing their pages takes longer than the arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import sys

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
