"""Where results are kept that can be made again."""

from __future__ import annotations

import os
import re
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of the cache, which is `$EVOMERGE_CACHE` or else `~/.cache/evomerge`."""
    chosen = Path(os.environ.get("EVOMERGE_CACHE") or "~/.cache/evomerge")
    return chosen.expanduser() / name


def as_file_name(text: str) -> str:
    """A text as a file's name: nothing in it leads out of the folder."""
    return re.sub(r"\W+", "-", text).strip("-")
