"""The time that a search takes: on the wall, however often it was interrupted, and of GPUs."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.recipe.search import Stop
    from evomerge.store.database import RunStore

HOUR_S = 3600
KEPT_EVERY_S = 10
"""Least seconds between two notes of the time, which are made when a candidate is done."""

FACT, GPU_FACT = "searched_s", "gpu_s"
"""Where the store keeps the seconds of earlier processes, and those of all their GPUs."""


class Clock:
    """Runs while a process searches, and goes on in the next one from where it stood.

    Args:
        store: Keeps where it stood.
        gpus: How many GPUs the search holds in this process.
    """

    def __init__(self, store: RunStore, gpus: float = 0.0) -> None:
        self._store, self._started, self._gpus = store, monotonic(), gpus
        self._before = self._kept = float(store.fact(FACT) or 0.0)
        self._gpus_before = float(store.fact(GPU_FACT) or 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of searching, in this process and in those before it."""
        return self._before + monotonic() - self._started

    @property
    def gpu_seconds(self) -> float:
        """Seconds of all GPUs that searching has held, in this process and in those before it."""
        return self._gpus_before + self._gpus * (monotonic() - self._started)

    def keep(self) -> None:
        """Note where it stands, for the next process."""
        self._kept = self.seconds
        self._store.write_facts({FACT: self._kept, GPU_FACT: self.gpu_seconds})

    def keep_now_and_then(self) -> None:
        """Note where it stands if that was noted long ago; noting takes time itself."""
        if self.seconds - self._kept >= KEPT_EVERY_S:
            self.keep()

    def reason_to_stop(self, stop: Stop) -> str | None:
        """Why the search has taken long enough, in one line.

        What follows from it differs from machine to machine, so it may end a search and never
        decide what is proposed.

        Args:
            stop: The limits.
        """
        if stop.wall_hours is not None and self.seconds >= HOUR_S * stop.wall_hours:
            return f"the search has taken {self.seconds / HOUR_S:.3g} hours"
        if stop.gpu_hours is not None and self.gpu_seconds >= HOUR_S * stop.gpu_hours:
            return f"GPUs were held for {self.gpu_seconds / HOUR_S:.3g} hours"
        return None
