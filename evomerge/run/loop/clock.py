"""The time that a search takes: on the wall, however often it was interrupted, and of GPUs."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.recipe.search import Stop
    from evomerge.store.database import RunStore

HOUR_S = 3600
KEPT_EVERY_S = 10
"""Seconds between two notes of the time: as much is lost with a process that is killed."""

FACT = "searched_s"
"""Where the store keeps the seconds that earlier processes have searched."""


class Clock:
    """Runs while a process searches, and goes on in the next one from where it stood.

    Args:
        store: Keeps where it stood.
    """

    def __init__(self, store: RunStore) -> None:
        self._store, self._started = store, monotonic()
        self._before = self._kept = float(store.fact(FACT) or 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of searching, in this process and in those before it."""
        return self._before + monotonic() - self._started

    def keep(self) -> None:
        """Note where it stands, for the next process."""
        self._kept = self.seconds
        self._store.write_facts({FACT: self._kept})

    def keep_now_and_then(self) -> None:
        """Note where it stands if that was noted long ago; noting takes time itself."""
        if self.seconds - self._kept >= KEPT_EVERY_S:
            self.keep()

    def reason_to_stop(self, stop: Stop, gpu_s: float) -> str | None:
        """Why the search has taken long enough, in one line.

        What follows from it differs from machine to machine, so it may end a search and never
        decide what is proposed.

        Args:
            stop: The limits.
            gpu_s: Seconds that GPUs have worked.
        """
        if stop.wall_hours is not None and self.seconds >= HOUR_S * stop.wall_hours:
            return f"the search has taken {self.seconds / HOUR_S:.3g} hours"
        if stop.gpu_hours is not None and gpu_s >= HOUR_S * stop.gpu_hours:
            return f"GPUs have worked for {gpu_s / HOUR_S:.3g} hours"
        return None
