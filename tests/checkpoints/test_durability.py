"""A small file is replaced as a whole, and is on disk when the call returns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evomerge.checkpoints import write_atomically


def test_a_file_is_written_and_replaced(tmp_path):
    file = tmp_path / "state.json"
    write_atomically(file, b"one")
    assert file.read_bytes() == b"one"
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def test_file_and_folder_are_synced_in_order(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name[:5]}")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_atomically(tmp_path / "file", b"content")
    assert events == ["fsync .tmp-", "replace", f"fsync {tmp_path.name[:5]}"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_keeps_the_old_content_and_leaves_nothing_else(tmp_path, monkeypatch, broken):
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "file"
    write_atomically(file, b"old")
    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_permissions_follow_the_users_mask(tmp_path):
    write_atomically(tmp_path / "file", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
