"""What depends on models alone and not on a recipe, kept on disk and mapped into memory.

Ranks of magnitudes, for example, cost many times what a merge that uses them does; a search needs
them for every candidate, and all its workers share one copy of them in the page cache.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import torch
from blake3 import blake3
from torch import Tensor

from evomerge.checkpoints import write_atomically
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 50_000_000_000
DIGEST_BYTES = 32


class DerivedTensors:
    """A folder of tensors by a key of all that they depend on, shared by processes.

    A file is complete or absent, and ends in the digest of its content: one that was damaged is
    made again. The least recently used files make room for new ones.

    Args:
        folder: The folder; made when something is stored.
        max_bytes: Size that all files together may have.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._mapped: dict[str, Tensor] = {}
        self._held = sum(file.stat().st_size for file in self._files())

    def fetch(
        self, key: str, dtype: torch.dtype, shape: tuple[int, ...], make: Callable[[], Tensor]
    ) -> Tensor:
        """Return the tensor of a key; read-only.

        Args:
            key: Everything that the tensor depends on.
            dtype: Its dtype.
            shape: Its shape.
            make: Makes it; called only if it is not there.

        Raises:
            ModelError: The folder cannot be written.
        """
        name = blake3(f"{key}\0{dtype}\0{shape}".encode()).hexdigest()
        if name not in self._mapped:
            file = self._folder / name
            found = _map(file, dtype, shape)
            if found is None:
                found = make()
                self._store(file, found)
                # Mapped, it is shared with other processes and may be given back.
                found = _map(file, dtype, shape)
                if found is None:
                    raise ModelError(f"{file}: was damaged as soon as it was written")
            self._mapped[name] = found
        return self._mapped[name]

    def _store(self, file: Path, tensor: Tensor) -> None:
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content) + DIGEST_BYTES)
            write_atomically(file, content + blake3(content).digest())
        except OSError as error:
            raise ModelError(
                f"{self._folder}: the cache cannot be written: {error.strerror or error}; name "
                "another folder in EVOMERGE_CACHE"
            ) from error

    def _make_room(self, size: int) -> None:
        self._held += size
        if self._held <= self._max_bytes:
            return
        # Those that are mapped stay readable until this process ends.
        for file in sorted(self._files(), key=lambda each: each.stat().st_mtime):
            self._held -= file.stat().st_size
            file.unlink(missing_ok=True)
            if self._held <= self._max_bytes:
                return

    def _files(self) -> list[Path]:
        return [*self._folder.iterdir()] if self._folder.is_dir() else []


def _map(file: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
    """Map a file; `None` if it is not there or not as it was written."""
    count = torch.Size(shape).numel()
    size = count * dtype.itemsize
    try:
        if file.stat().st_size != size + DIGEST_BYTES:
            return None
        content = torch.from_file(str(file), size=size + DIGEST_BYTES, dtype=torch.uint8)
        with contextlib.suppress(OSError):
            os.utime(file)
    except (OSError, RuntimeError):
        return None
    digest = blake3(content[:size].numpy().data).digest()
    if digest != content[size:].numpy().tobytes():
        return None
    return content[:size].view(dtype).view(shape)
