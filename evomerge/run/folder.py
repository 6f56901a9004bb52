"""A run's folder: the names of its files, its recipe, and the lock that lets one process write."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from evomerge.errors import RunError, RunInUseError
from evomerge.recipe.refine import UNUSED
from evomerge.recipe.search import SearchRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evomerge.store.database import RunStore


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run's files are.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def database(self) -> Path:
        """The run store."""
        return self.path / "run.sqlite"

    @property
    def refined(self) -> Path:
        """Where refined models are trained and kept."""
        return self.path / "refined"

    @property
    def _lock(self) -> Path:
        return self.path / "run.lock"

    @property
    def _holder(self) -> Path:
        return self.path / "run.holder.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the folder's only writer; the kernel frees the lock when the process dies.

        Raises:
            RunInUseError: Another process is writing; the message says which and since when.
            RunError: The folder cannot be created or written.
        """
        lock = FileLock(self._lock)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            self._holder.write_text(json.dumps(_holder()))
        except Timeout:
            raise RunInUseError(f"{self.path}: in use by {self._who()}; wait or stop it") from None
        except FileExistsError:
            raise RunError(f"{self.path}: is a file; give another --run") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def recipe_of(store: RunStore) -> SearchRecipe:
    """The recipe of a run, also of a run of an older version, which knew fewer settings."""
    document = store.fact("recipe")
    document["evaluation"].setdefault("racing", None)
    if document.get("refine"):
        _forget_unused(document["refine"])
    return SearchRecipe.model_validate(document)


def _forget_unused(refine: dict[str, Any]) -> None:
    """Leave out what an older version wrote of settings that change nothing, and none may give."""
    if refine["loss"]["kind"] != "top_k_kl":
        refine["loss"]["tail"] = None
    for name in UNUSED[refine["train"]["what"]]:
        refine["train"].pop(name, None)


def _holder() -> dict[str, object]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
