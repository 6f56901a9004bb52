"""Evaluates candidates in this process, one after the other."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from evomerge.executors.worker import Worker, WorkerSettings
from evomerge.live_model import choose_device

if TYPE_CHECKING:
    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job


class InlineExecutor:
    """An executor without processes: for tests, for debugging and for one GPU."""

    workers = 1

    def __init__(self, settings: WorkerSettings) -> None:
        self._worker = Worker(settings)
        self.gpus = float(choose_device(settings.device).type == "cuda")
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Keep a candidate until it is collected."""
        self._waiting.append(job)

    def collect(self) -> tuple[Job, Outcome]:
        """Evaluate the candidate that has waited for longest."""
        job = self._waiting.popleft()
        return job, self._worker.evaluate(job)

    def close(self) -> None:
        """Nothing to stop."""
