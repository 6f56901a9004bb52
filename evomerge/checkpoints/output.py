"""The place that a result is written to: looked at before the work, which may take hours."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evomerge.checkpoints.durability import write_atomically
from evomerge.errors import DiskFullError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_output_folder(out: Path) -> None:
    """Check that a folder can be made at `out`, or is there and empty.

    Raises:
        OutputError: It cannot.
    """
    with named_errors(out):
        empty = out.is_dir() and not any(out.iterdir())
        if out.is_symlink() or (out.exists() and not empty):
            raise OutputError(f"{out}: is there already; name a folder that is absent or empty.")
        if empty and out.resolve().is_mount():
            raise OutputError(f"{out}: is a mount point; name a folder inside it.")
        _check_parent(out)


def check_output_file(out: Path) -> None:
    """Check that a new file can be written at `out`.

    Raises:
        OutputError: It cannot.
    """
    with named_errors(out):
        if out.is_symlink() or out.exists():
            raise OutputError(f"{out}: is there already; give another name.")
        _check_parent(out)


def write_output_file(out: Path, content: bytes) -> None:
    """Write a new file, and the folders that it is in.

    Raises:
        OutputError: It cannot be written.
    """
    check_output_file(out)
    with named_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content)


@contextmanager
def named_errors(out: Path) -> Iterator[None]:
    """Say of an error of the disk what could not be written.

    Raises:
        DiskFullError: No space is left.
        OutputError: It was another error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"{out}: no space is left on the disk; make room or name another disk."
            ) from error
        raise OutputError(
            f"{out}: cannot be written: {error.strerror}; check the disk or name another place."
        ) from error


def _check_parent(out: Path) -> None:
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"{out}: cannot be written: {parent} is not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written: nothing may be written in {parent}.")
