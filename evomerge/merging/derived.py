"""What depends on models alone and not on a recipe, kept on disk and mapped into memory.

Ranks of magnitudes, for example, cost many times what a merge that uses them does; a search needs
them for every candidate, and all its workers share one copy of them in the page cache.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from blake3 import blake3
from safetensors.torch import save
from torch import Tensor

from evomerge.checkpoints import MappedFile, write_atomically
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 50_000_000_000

VERSION = 2
"""Raised whenever something is derived in another way, so that no old file is taken for a new."""


class DerivedTensors:
    """A folder of tensors by a key of all that they depend on, shared by processes.

    A file is complete or absent, and holds the digest of its content: one that was damaged is
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

    def fetch(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of a key; read-only.

        Args:
            key: Everything that the tensor depends on.
            make: Makes it; called only if it is not there.

        Raises:
            ModelError: The folder cannot be written.
        """
        name = blake3(f"{VERSION} {key}".encode()).hexdigest()
        if name not in self._mapped:
            file = self._folder / name
            found = _map(file)
            if found is None:
                self._store(file, make())
                # Mapped, it is shared with other processes, and its memory can be given back.
                found = _map(file)
                if found is None:
                    raise ModelError(f"{file}: was damaged as soon as it was written")
            self._mapped[name] = found
        return self._mapped[name]

    def _store(self, file: Path, tensor: Tensor) -> None:
        tensor = tensor.contiguous()
        digest = torch.frombuffer(bytearray(_digest(tensor)), dtype=torch.uint8)
        content = save({"tensor": tensor, "digest": digest})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            write_atomically(file, content)
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


def _map(file: Path) -> Tensor | None:
    """Map a file; `None` if it is not there or not as it was written."""
    try:
        os.utime(file)  # before it is opened: a file that changes while in use is refused
        mapped = MappedFile(file)
        tensor, digest = (mapped.read(mapped.headers[name]) for name in ("tensor", "digest"))
    except (OSError, KeyError, ModelError):
        return None
    return tensor if _digest(tensor) == digest.numpy().tobytes() else None


def _digest(tensor: Tensor) -> bytes:
    return blake3(tensor.reshape(-1).view(torch.uint8).numpy().data).digest()
