"""Measured statistics on disk, by a key of all that they depend on.

An entry is complete or absent. What it holds is checked against its digest when it is opened; an
entry that was damaged is measured again. The least recently used entries make room for new ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from blake3 import blake3
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.cache import cache_folder
from evomerge.checkpoints import CheckpointWriter, read_headers
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS, ABOUT = "model.safetensors", "statistic.json"
MAX_BYTES = 50_000_000_000

Shapes = Mapping[str, tuple[int, ...]]
Measured = tuple[Shapes, Iterable[tuple[str, Tensor]]]
"""The shape of every tensor to come, and the tensors, float32, in the same order."""


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of one safetensors file, each read when it is looked up."""

    def __init__(self, file: Path) -> None:
        self._names = tuple(read_headers(file))
        self._content = safe_open(file, framework="pt")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._content.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StatisticsCache:
    """A folder of measured statistics, shared by processes.

    Args:
        folder: The folder; by default `$EVOMERGE_CACHE`, or `~/.cache/evomerge`.
        max_bytes: Size that all entries together may have. The newest stays, whatever its size.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = (folder / "statistics") if folder else cache_folder("statistics")
        self._max_bytes = max_bytes

    def fetch(self, key: str, measure: Callable[[], Measured]) -> Mapping[str, Tensor]:
        """Return what is stored under `key`; if there is nothing sound, measure and store it.

        Args:
            key: A name fit for a folder.
            measure: Called only if need be; its tensors go to disk one by one.

        Raises:
            ModelError: The folder cannot be written.
        """
        entry = self.folder / key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Another process that wants the same waits for it instead of measuring it too.
            with FileLock(entry.with_suffix(".lock")):
                found = _open(entry)
                if found is None:
                    shutil.rmtree(entry, ignore_errors=True)
                    _write(entry, *measure())
                    found = StoredTensors(entry / WEIGHTS)
                    self._evict(keep=entry)
                else:
                    os.utime(entry / ABOUT)
        except OSError as error:
            raise ModelError(
                f"{self.folder}: the cache cannot be used: {error.strerror or error}; name "
                "another folder in EVOMERGE_CACHE"
            ) from error
        return found

    def _evict(self, keep: Path) -> None:
        entries = [file.parent for file in self.folder.glob(f"*/{ABOUT}")]
        entries.sort(key=lambda entry: (entry != keep, -_last_use(entry)))
        held = 0
        for entry in entries:
            held += sum(file.stat().st_size for file in entry.iterdir())
            if held > self._max_bytes and entry != keep:
                shutil.rmtree(entry, ignore_errors=True)


def _write(entry: Path, shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]) -> None:
    specs = {name: (torch.float32, shape) for name, shape in shapes.items()}
    size = sum(torch.Size(shape).numel() * 4 for shape in shapes.values())
    content = blake3()
    with CheckpointWriter(entry, specs, max_shard_bytes=max(1, size)) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)
            _digest(content, name, tensor)
        about = {"version": 1, "blake3": content.hexdigest()}
        writer.add_file(ABOUT, json.dumps(about).encode())


def _open(entry: Path) -> StoredTensors | None:
    """Open an entry; `None` if it is not there or not as it was written."""
    try:
        about = json.loads((entry / ABOUT).read_bytes())
        tensors = StoredTensors(entry / WEIGHTS)
        content = blake3()
        for name, tensor in tensors.items():
            _digest(content, name, tensor)
    except (OSError, ValueError, ModelError, SafetensorError):
        return None
    is_sound = isinstance(about, dict) and about.get("blake3") == content.hexdigest()
    return tensors if is_sound else None


def _digest(content: blake3, name: str, tensor: Tensor) -> None:
    content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    content.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _last_use(entry: Path) -> float:
    return (entry / ABOUT).stat().st_mtime
