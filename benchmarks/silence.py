"""Progress that nobody is told about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.store.records import Entry


class Silence:
    """What a search tells is dropped."""

    def measured(self, what: str, done: int, total: int) -> None:
        """Say nothing."""

    def evaluated(self, entry: Entry, total: int) -> None:
        """Say nothing."""

    def known(self, entries: Sequence[Entry]) -> None:
        """Say nothing."""

    def compared(self, done: int, total: int, on: str) -> None:
        """Say nothing."""

    def refined(self, what: str, done: int, total: int) -> None:
        """Say nothing."""
