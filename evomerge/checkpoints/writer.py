"""Write a model folder tensor by tensor: streamed, sharded, complete or absent.

Sizes are known beforehand, so every header is written first and every tensor goes straight to
its place. Memory: one tensor.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, final
from uuid import uuid4

import torch

from evomerge.checkpoints._confinement import is_plain
from evomerge.checkpoints._disk_stream import DiskStream
from evomerge.checkpoints._shards import Shard, TensorSpec, plan_shards
from evomerge.checkpoints._temporary_folder import check_space, lock, sweep
from evomerge.checkpoints.durability import sync_folder, write_durably
from evomerge.checkpoints.headers import read_headers
from evomerge.checkpoints.model_folder import INDEX
from evomerge.checkpoints.output import check_output_folder, named_errors
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

MARKER = "evomerge-complete.json"


@final
class CheckpointWriter:
    """A context manager that leaves a whole, durable model folder, or nothing.

    Everything is written to a hidden folder beside `out`, which is renamed at the end. A process
    that dies leaves only that folder behind; the next writer of the same `out` removes it.

    Args:
        out: The folder to make; must be absent or empty.
        tensors: dtype and shape of every tensor, in the order they will be written.
        max_shard_bytes: A new shard begins before one would hold more tensor bytes than this.

    Raises:
        OutputError: `out` is taken or cannot be written.
        DiskFullError: The disk has too little room.
        ModelError: A dtype cannot be stored.
    """

    def __init__(
        self,
        out: Path,
        tensors: Mapping[str, TensorSpec],
        *,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        self._out = out.absolute()
        self._tensors = dict(tensors)
        self._shards = plan_shards(tensors, max_shard_bytes)
        self._shard_of = {name: shard for shard in self._shards for name in shard.offsets}
        self._pending = iter(self._tensors)
        self._next = next(self._pending, None)
        self._open: tuple[Shard, DiskStream] | None = None
        self._temporary = self._out.with_name(f".tmp-{self._out.name}-{uuid4().hex}")
        self._lock: int | None = None
        check_output_folder(self._out)
        check_space(self._out, sum(shard.size for shard in self._shards))

    def __enter__(self) -> CheckpointWriter:
        with named_errors(self._out):
            self._out.parent.mkdir(parents=True, exist_ok=True)
            sweep(self._out)
            try:
                self._temporary.mkdir()
                self._lock = lock(self._temporary)
            except BaseException:  # also an interrupt: nobody leaves what was not entered
                self._remove()
                raise
        return self

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor.

        Raises:
            ModelError: It is not the declared one.
            OutputError: The disk refuses; DiskFullError if it is full.
        """
        if name != self._next:
            raise ModelError(f"{self._out}: {self._next!r} is to be written next, not {name!r}.")
        found = (tensor.dtype, tuple(tensor.shape))
        if found != self._tensors[name]:
            raise ModelError(
                f"{self._out}: {name!r} is {found[0]} {found[1]}, declared as "
                f"{self._tensors[name][0]} {self._tensors[name][1]}."
            )
        shard = self._shard_of[name]
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        with named_errors(self._out):
            self._stream(shard).write(shard.offsets[name], content)
        self._next = next(self._pending, None)

    def add_file(self, name: str, content: bytes) -> None:
        """Add a small file such as config.json.

        Raises:
            ModelError: `name` is not a plain file name, or one of the weights.
            OutputError: It is taken, or the disk refuses; DiskFullError if it is full.
        """
        own = {INDEX, MARKER, *(shard.file_name for shard in self._shards)}
        if not is_plain(name) or name in own:
            raise ModelError(f"{self._out}: {name!r} is not a name for an added file.")
        with named_errors(self._out):
            write_durably(self._temporary / name, content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with named_errors(self._out):
                    self._finish()
        finally:
            if self._open is not None:
                self._open[1].abandon()
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def _stream(self, shard: Shard) -> DiskStream:
        """Return the open file of `shard`, closing the one before it."""
        if self._open is not None and self._open[0] is shard:
            return self._open[1]
        self._close_shard()
        stream = DiskStream(self._temporary / shard.file_name)
        self._open = (shard, stream)
        stream.write(0, torch.frombuffer(bytearray(shard.header), dtype=torch.uint8))
        return stream

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _finish(self) -> None:
        if self._next is not None:
            raise ModelError(f"{self._out}: not finished: {self._next!r} was never written.")
        self._close_shard()
        total = sum(shard.tensor_bytes for shard in self._shards)
        if len(self._shards) > 1:
            write_durably(self._temporary / INDEX, _index(self._shards, total))
        for shard in self._shards:
            read_headers(self._temporary / shard.file_name)
        marker = {"version": 1, "tensors": len(self._tensors), "bytes": total}
        write_durably(self._temporary / MARKER, json.dumps(marker).encode())
        sync_folder(self._temporary)
        self._temporary.rename(self._out)
        sync_folder(self._out.parent)


def _index(shards: tuple[Shard, ...], total: int) -> bytes:
    weight_map = {name: shard.file_name for shard in shards for name in shard.offsets}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()
