"""The hidden folder that a model folder is built in, beside the place it will have."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from typing import TYPE_CHECKING

from evomerge.errors import DiskFullError

if TYPE_CHECKING:
    from pathlib import Path


def check_space(out: Path, needed: int) -> None:
    """Check that the disk of `out` has `needed` bytes."""
    existing = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFullError(
            f"{out}: the disk is too full: needs {needed / 1e6:.1f} MB, has {free / 1e6:.1f} MB; "
            "make space or name another disk."
        )


def sweep(out: Path) -> None:
    """Remove what earlier writers of `out` left when they died; a live one holds its lock."""
    pattern = re.compile(rf"\.tmp-{re.escape(out.name)}-[0-9a-f]{{32}}")
    for folder in out.parent.iterdir():
        if pattern.fullmatch(folder.name) and (descriptor := lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends.

    `None` if another process has it, or if the disk knows no locks; then nobody sweeps.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
