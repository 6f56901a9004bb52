"""A stream writes what it is given to where it belongs, on every kind of disk."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.checkpoints import _disk_stream
from evomerge.checkpoints._disk_stream import DiskStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

PART = 8192
KINDS = ["as it is", "knows no other way", "refuses to write"]


def _refuse_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems in memory once did: no way past the page cache."""
    change = fcntl.fcntl

    def refuse(descriptor: int, command: int, flags: int = 0) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return change(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def _refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As disks with larger blocks do."""
    write = os.pwrite

    def refuse(descriptor: int, content: memoryview, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, content[:5000], offset)  # and not all at once

    monkeypatch.setattr(os, "pwrite", refuse)


@pytest.fixture(params=KINDS)
def disk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """A folder on a disk of this kind."""
    monkeypatch.setattr(_disk_stream, "PART_BYTES", PART)
    if request.param == KINDS[1]:
        _refuse_to_change(monkeypatch)
    elif request.param == KINDS[2]:
        _refuse_to_write(monkeypatch)
    return tmp_path


def _bytes(size: int) -> Tensor:
    return torch.randint(256, (size,), generator=torch.Generator().manual_seed(size)).byte()


@given(sizes=st.lists(st.integers(0, 3 * PART), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_what_is_written_in_order_is_there(disk: Path, sizes: Sequence[int]) -> None:
    content, file = _bytes(sum(sizes)), disk / "file"
    file.unlink(missing_ok=True)
    stream = DiskStream(file)
    for start, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        stream.write(start, content[start:end])
    stream.close()
    assert file.read_bytes() == content.numpy().tobytes()


def test_what_is_written_out_of_order_is_there(disk: Path) -> None:
    content, stream = _bytes(5 * PART), DiskStream(disk / "file")
    for start, end in ((0, PART + 100), (3 * PART, 5 * PART), (PART + 100, 3 * PART)):
        stream.write(start, content[start:end])
    stream.close()
    assert (disk / "file").read_bytes() == content.numpy().tobytes()


def test_what_was_given_may_change_at_once(disk: Path) -> None:
    content, stream = torch.ones(3 * PART, dtype=torch.uint8), DiskStream(disk / "file")
    stream.write(0, content)
    content.zero_()
    stream.close()
    assert set((disk / "file").read_bytes()) == {1}


def test_an_error_of_the_disk_comes_out(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    stream = DiskStream(disk / "file")
    stream.write(0, _bytes(PART + 1))
    with pytest.raises(OSError, match="No space left"):
        stream.close()
    stream.abandon()


def test_a_file_that_is_there_is_kept(disk: Path) -> None:
    (disk / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        DiskStream(disk / "file")
    assert (disk / "file").read_text() == "mine"
