"""Evaluates candidates in this process, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.executors.worker import Worker, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.evaluation.outcome import Outcome
    from evomerge.executors.contract import Job


class InlineExecutor:
    """An executor without processes: for tests, for debugging and for one GPU."""

    workers = 1

    def __init__(self, settings: WorkerSettings) -> None:
        self._worker = Worker(settings)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Evaluate candidates in order."""
        for job in jobs:
            yield job, self._worker.evaluate(job)

    def close(self) -> None:
        """Nothing to stop."""
