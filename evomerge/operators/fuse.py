"""Loops over entries that are compiled into one pass once that is worth its time.

Eager torch goes through memory once per arithmetic operation. Where a C++ compiler is at hand, a
loop that is used again and again is compiled; it gives the same bits, which is checked before it
is trusted. Compiling takes seconds, so it is for those who merge many times, see `compiling`.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 17
"""Entries that eager torch is given at a time, so that all operands stay in the cache."""

WORTH_COMPILING = 2.0
"""Seconds of eager work after which a loop is compiled; that takes some seconds too."""

Entries = Mapping[str, Sequence[Tensor]]
"""Flat tensors with one value per entry."""

Loop = Callable[[Entries, Mapping[str, Any], Tensor], None]
"""Computes from entries, and from arguments that hold for all of them, a flat tensor of results.

The argument `draws` is a sequence of random numbers, which know where their first entry is.
"""

_COMPILING: ContextVar[bool] = ContextVar("compiling", default=False)

_OPTIONS: dict[str, Any] = {
    "emulate_precision_casts": True,  # without it, rounding on the way is left out
    "compile_threads": 1,  # others would be processes that import torch again
    "cpp_cache_precompile_headers": False,  # takes longer than a few loops save by it
}

_LOG = logging.getLogger(__name__)


@contextmanager
def compiling() -> Iterator[None]:
    """Loops that are run inside may be compiled."""
    token = _COMPILING.set(True)
    try:
        yield
    finally:
        _COMPILING.reset(token)


class FusedLoop:
    """A loop that is run block by block at first and compiled when it has done some work.

    Args:
        loop: What to run; each result depends on the same entry of the inputs alone.
        fusible: Whether it may be compiled.
    """

    def __init__(self, loop: Loop, *, fusible: bool = True) -> None:
        self._loop = loop
        self._compiled: Loop | None = None
        self._fusible = fusible
        self._eager_s = 0.0

    def __call__(self, entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
        """Run the loop.

        Args:
            entries: The inputs.
            arguments: What holds for all entries: numbers as tensors, flags, random numbers.
            out: Where the results go, shape `(n,)`.
        """
        size = out.numel()
        worthwhile = _COMPILING.get() and self._eager_s > WORTH_COMPILING
        if size > BLOCK and self._fusible and worthwhile:
            self._fusible = False  # it is tried once
            self._compile(entries, arguments, out)
        if size > BLOCK and self._compiled is not None:
            self._compiled(entries, arguments, out)
            return
        started = time.perf_counter()
        for start in range(0, size, BLOCK):
            where = slice(start, min(start + BLOCK, size))
            self._loop(_cut(entries, where), _shifted(arguments, start), out[where])
        self._eager_s += time.perf_counter() - started

    def _compile(self, entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
        from torch._dynamo import config, exc

        # A loop for each operator, number of sources and dtype of theirs is no accident here.
        config.recompile_limit = max(256, config.recompile_limit)
        warnings.filterwarnings("ignore", module=r"torch\._inductor")
        compiled = torch.compile(self._loop, dynamic=True, fullgraph=True, options=_OPTIONS)
        try:
            compiled(entries, arguments, out)
        except exc.TorchDynamoException as error:
            _LOG.info("loops are not compiled: %s", str(error).partition("\n")[0])
            return
        where = slice(0, BLOCK)
        eager = torch.empty_like(out[where])
        self._loop(_cut(entries, where), arguments, eager)
        if torch.equal(eager, out[where]):
            self._compiled = compiled


def _shifted(arguments: Mapping[str, Any], start: int) -> dict[str, Any]:
    """Arguments for a block whose first entry is another one."""
    moved = dict(arguments)
    if "draws" in moved:
        moved["draws"] = [own.after(start) for own in moved["draws"]]
    if "offset" in moved:
        moved["offset"] = moved["offset"] + start
    return moved


def _cut(entries: Entries, where: slice) -> Entries:
    return {name: [value[where] for value in values] for name, values in entries.items()}
