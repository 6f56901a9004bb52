"""Looking at a run's store, which another process may be writing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evomerge.store.database import RunStore

View = TypeVar("View")


def view(run: Path, make: Callable[[RunStore], View]) -> View:
    """What a function makes of the store of a run folder."""
    from evomerge.run.folder import RunFolder
    from evomerge.store.database import RunStore

    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        return make(store)
