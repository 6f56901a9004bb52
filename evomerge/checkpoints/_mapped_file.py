"""A safetensors file in memory: its tensors as views of the page cache."""

from __future__ import annotations

import mmap
import sys
import threading
from typing import TYPE_CHECKING

import torch
from blake3 import blake3

from evomerge.checkpoints._raw_header import read_header_bytes
from evomerge.checkpoints.headers import TensorHeader, parse_header
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Pages are private, so that a stray in-place write cannot reach the file, and not reserved, so
# that a file larger than memory can be mapped. Python's mmap module does not name the second flag.
_FLAGS = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)


class MappedFile:
    """One safetensors file, checked when opened and mapped when first read.

    The file must stay as it was: every read compares size, time and inode, because a file that
    shrinks under a mapping would end the process.

    Attributes:
        file: Where it is.
        headers: Its tensors, in the order of the data.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._stamp = _stamp(file)
        header = read_header_bytes(file)
        self._header_digest = blake3(header).hexdigest()
        self.headers: Mapping[str, TensorHeader] = parse_header(header, file)
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None

    def read(self, header: TensorHeader) -> torch.Tensor:
        """Return the values of one tensor of this file as a view; treat it as read-only."""
        self._check_unchanged()
        if header.start == header.end:
            return torch.empty(header.shape, dtype=header.dtype)
        mapped = self._mapped()
        if header.start % header.dtype.itemsize:
            # Old writers did not align. torch needs it, so this tensor is copied.
            content = torch.frombuffer(
                mapped, dtype=torch.uint8, count=header.nbytes, offset=header.start
            )
            return content.clone().view(header.dtype).reshape(header.shape)
        count = header.nbytes // header.dtype.itemsize
        values = torch.frombuffer(mapped, dtype=header.dtype, count=count, offset=header.start)
        return values.reshape(header.shape)

    def release(self) -> None:
        """Give back the pages that reads have brought in; they come back when they are used."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def fingerprint(self) -> str:
        """Return what identifies the file as it was when opened: name, stamp and header."""
        return f"{self.file.name}:{self._stamp}:{self._header_digest}"

    def _mapped(self) -> mmap.mmap:
        with self._lock:
            if self._map is None:
                try:
                    with self.file.open("rb") as stream:
                        self._map = mmap.mmap(
                            stream.fileno(),
                            0,
                            flags=_FLAGS,
                            prot=mmap.PROT_READ | mmap.PROT_WRITE,
                        )
                except OSError as error:
                    raise ModelError(
                        f"{self.file}: cannot be mapped: {error.strerror}."
                    ) from error
            return self._map

    def _check_unchanged(self) -> None:
        if _stamp(self.file) != self._stamp:
            raise ModelError(
                f"{self.file}: changed while in use; restore the file or start a new run."
            )


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}.") from error
    return status.st_size, status.st_mtime_ns, status.st_ino
