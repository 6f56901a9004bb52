"""Evaluates candidates in Ray actors, each of which holds a live model.

A local Ray is started on the loopback interface, without dashboard and without usage statistics;
a running cluster is joined by its address, and so is a Ray that this process runs already. It runs
on between pieces of work, as long as `one_ray` says, because starting it takes seconds.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import RunError, VersionError
from evomerge.evaluation.scores.outcome import Failed, Outcome
from evomerge.executors.worker import Worker, WorkerSettings, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.executors.contract import Job

ATTEMPTS = 2
"""How often a candidate may take its worker down before it counts as failed."""

PATIENCE_S = 10.0
"""Seconds after which it is looked whether there is a place left for any worker."""

ROUNDING = 1e-6
"""So many GPUs may be missing from a whole number of shares."""


class RayExecutor:
    """An executor with one actor per worker.

    Args:
        settings: What each worker needs to know.
        workers: Number of workers.
        address: Address of a running cluster; None starts a local Ray.

    Raises:
        RunError: Ray cannot be started or has no room for the workers, or one cannot be built.
        VersionError: Ray is not installed.
    """

    def __init__(self, settings: WorkerSettings, workers: int, address: str | None = None) -> None:
        self._settings = settings
        self._ray = join_or_start(workers * self._cpus, address)
        self._gpus = gpu_share(self._ray, workers, settings.device)
        _check_room(self._ray, workers, self._cpus, self._gpus)
        self._actors = [self._build_actor() for _ in range(workers)]
        self._free = list(range(workers))
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[Any, tuple[int, Job, int]] = {}
        self._starting: dict[Any, int] = {}
        try:
            self._ray.get([actor.ready.remote() for actor in self._actors])
        except self._ray.exceptions.RayError as error:
            self.close()
            raise RunError(f"a worker could not be built: {one_cause(error)}") from error

    @property
    def workers(self) -> int:
        """Number of actors."""
        return len(self._actors)

    @property
    def gpus(self) -> float:
        """GPUs of each actor, or its share of the one that the recipe names for all of them."""
        named = self._settings.device.startswith("cuda:")
        return 1 / self.workers if named else self._gpus

    def submit(self, job: Job) -> None:
        """Evaluate a candidate as soon as an actor is free."""
        self._waiting.append((job, 1))
        self._fill()

    def collect(self) -> tuple[Job, Outcome]:
        """Wait for any candidate; a dead actor is replaced and its candidate tried again.

        Raises:
            RunError: All workers have died, and the Ray that was joined has no room for another.
        """
        while True:
            done = self._next()
            slot, job, attempt = self._running.pop(done)
            outcome = self._outcome(done, slot)
            again = isinstance(outcome, Failed) and outcome.stage == "worker"
            if again and attempt < ATTEMPTS:
                self._waiting.appendleft((job, attempt + 1))
            self._fill()
            if not again or attempt == ATTEMPTS:
                return job, outcome

    def _next(self) -> Any:
        """The next answer; actors that were replaced work from when they have started."""
        while True:
            found, _ = self._ray.wait([*self._running, *self._starting], timeout=PATIENCE_S)
            if not found and not self._running:
                _check_room(self._ray, 1, self._cpus, self._gpus)
            for each in found:
                if each in self._running:
                    return each
                self._free.append(self._starting.pop(each))
                self._fill()

    def _fill(self) -> None:
        while self._waiting and self._free:
            (job, attempt), slot = self._waiting.popleft(), self._free.pop()
            answer = self._actors[slot].evaluate.remote(job)
            self._running[answer] = (slot, job, attempt)

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    @property
    def _cpus(self) -> int:
        return self._settings.threads or 1

    def _outcome(self, answer: Any, slot: int) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            # Process death: memory, a crash in native code, a lost node.
            self._ray.kill(self._actors[slot])
            self._actors[slot] = self._build_actor()
            self._starting[self._actors[slot].ready.remote()] = slot
            return Failed(stage="worker", reason=one_cause(error))
        self._free.append(slot)
        return outcome

    def _build_actor(self) -> Any:
        remote = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_Actor)
        return remote.remote(self._settings)


class _Actor:
    """A worker behind Ray."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._worker = Worker(settings)

    def ready(self) -> bool:
        return True

    def evaluate(self, job: Job) -> Outcome:
        return self._worker.evaluate(job)


@contextmanager
def one_ray() -> Iterator[None]:
    """Start Ray once at most for all that is done within; one that was connected stays so."""
    before = _is_connected()
    try:
        yield
    finally:
        if not before and _is_connected():
            sys.modules["ray"].shutdown()


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def join_or_start(cpus: int, address: str | None) -> Any:
    """The ray module, connected.

    Raises:
        RunError: Ray cannot be started.
        VersionError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        # Ray replaces a loopback address by an outer one unless it takes this for a machine that
        # cannot be part of a cluster. Tokens keep other users of this machine out.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if address is None or _has_token():
        # Clusters may ask for it, Ray shows it only if told to, and other clusters ignore it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise VersionError(
            "executor.kind: ray is not installed; pip install 'evomerge[ray]', "
            "or use --set executor.kind=inline"
        ) from error
    if ray.is_initialized():
        return ray
    local: dict[str, Any] = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    handler = signal.getsignal(signal.SIGTERM)
    # A terminal that is closed tells all its processes; Ray's are to stay until work has saved
    # itself. They inherit this mask, as they do one against interrupts that Ray sets.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        ray.init(
            address=address or "local",
            logging_level="error",
            log_to_driver=False,
            **(local if address is None else {}),
        )
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        how = f"joined at {address}" if address else "started"
        raise RunError(f"executor: Ray could not be {how}: {one_line(error)}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _restore(handler)
    return ray


def gpu_share(ray: Any, workers: int, device: str) -> float:
    """GPUs that each worker asks for, so that all of them fit at once; at most 1, for it uses one.

    Args:
        ray: The ray module, connected.
        workers: Number of workers.
        device: `cpu`, `auto`, `cuda` or `cuda:N`; who names a GPU sees all of them.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device in {"auto", "cuda"} else 0
    return 1 / math.ceil(workers / gpus) if gpus else 0.0


def _check_room(ray: Any, workers: int, cpus: int, gpus: float) -> None:
    """Refuse workers for which a Ray that was joined has no place: it would wait for ever."""
    sizes = {"CPU": cpus, "GPU": gpus}
    fitting = sum(
        min(int(node.get(name, 0) / size + ROUNDING) for name, size in sizes.items() if size)
        for node in _nodes(ray)
    )
    if fitting < workers:
        raise RunError(
            f"executor.workers: {workers} of executor.threads {cpus} do not fit into the Ray that "
            f"runs already, {fitting} do; ask for fewer or smaller ones, or join a larger one"
        )


def most_cpus(ray: Any, gpus: float) -> int:
    """The CPUs of the largest machine that has so many GPUs; 0 if none has."""
    fitting = [node for node in _nodes(ray) if node.get("GPU", 0) >= gpus]
    return int(max((node.get("CPU", 0) for node in fitting), default=0))


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _has_token() -> bool:
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").exists()


def _restore(handler: Any) -> None:
    """Handle SIGTERM as before Ray, which would print a stack trace and leave at once."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def one_cause(error: BaseException) -> str:
    """The cause inside Ray's wrapping, in one line."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(cause).__name__
