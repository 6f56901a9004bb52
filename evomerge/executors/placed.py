"""Runs one long piece of work somewhere, told how far it is and stopped when asked to.

It runs beside the caller, so that a signal reaches the caller at once: the work is then asked to
save itself and to end, and the signal goes on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from evomerge.errors import EvomergeError, RunError
from evomerge.executors.ray import gpu_share, join_or_start, most_cpus, one_cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.refinement.distillation import Report

INTERVAL_S = 0.5
"""Seconds between two looks at the work."""

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol, Generic[Result_co]):
    """A piece of work; what travels to another process must be plain data."""

    def __call__(self, report: Report, stop: Callable[[], bool]) -> Result_co:
        """Do it; save and return as soon as `stop` says so."""


def run_here(work: Work[Result], report: Report) -> Result:
    """Do a piece of work in this process."""
    stopped, ended = threading.Event(), threading.Event()
    found: list[Any] = []

    def do() -> None:
        try:
            found.append(work(report, stopped.is_set))
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            found.append(error)
        finally:
            ended.set()

    # A signal that interrupts `join` leaves a thread that counts as dead (CPython's bpo-45274).
    thread = threading.Thread(target=do, name="refinement")
    try:
        thread.start()  # the work may be interrupted while this still waits for it to begin
        while not ended.wait(INTERVAL_S):
            pass
    except BaseException:
        stopped.set()
        ended.wait()
        raise
    if isinstance(found[0], BaseException):
        raise found[0]
    result: Result = found[0]
    return result


def run_on_ray(
    work: Work[Result], report: Report, *, cpus: int, device: str, address: str | None
) -> Result:
    """Do a piece of work in one Ray task.

    Args:
        work: The work.
        report: Told how far it is.
        cpus: CPUs that it gets, or all of the largest machine if that has fewer.
        device: `cpu`, or what may be a GPU.
        address: Address of a running cluster; None starts a local Ray.

    Raises:
        RunError: Ray cannot be started, or the process that did the work died.
        VersionError: Ray is not installed.
        EvomergeError: What the work raises on purpose.
    """
    ray = join_or_start(cpus, address)
    try:
        board = ray.remote(num_cpus=0)(_Board).remote()
        gpus = gpu_share(ray, 1, device)
        cpus = min(cpus, most_cpus(ray, gpus))
        answer = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_do).remote(work, board)
        try:
            while not ray.wait([answer], timeout=INTERVAL_S)[0]:
                for news in ray.get(board.read.remote()):
                    report(*news)
        except BaseException:
            ray.get(board.stop.remote())
            ray.wait([answer])
            raise
        for news in ray.get(board.read.remote()):
            report(*news)
        result: Result = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EvomergeError):
            raise error.cause from None
        raise RunError(f"refine: {one_cause(error)}") from error
    except ray.exceptions.RayError as error:
        raise RunError(f"refine: the process that did it died: {one_cause(error)}") from error
    return result


class _Board:
    """Where the work writes how far it is, and reads whether to stop."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[str, int, int]] = {}
        self._stopped = False

    def report(self, what: str, done: int, total: int) -> None:
        self._news[what] = (what, done, total)

    def read(self) -> list[tuple[str, int, int]]:
        news, self._news = list(self._news.values()), {}
        return news

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped


def _do(work: Work[Any], board: Any) -> Any:
    import ray

    def report(what: str, done: int, total: int) -> None:
        ray.get(board.report.remote(what, done, total))

    return work(report, lambda: ray.get(board.stopped.remote()))
