"""Runs a function that may run hostile code, in a process that cannot harm this one.

The function runs in a fork: what it uses (tasks, functions from YAML files) cannot be pickled, and
loading it anew takes seconds for each candidate. This process has threads, of which the fork has
only the one that forked: so the function must leave alone what other threads may hold or share,
above all torch, OpenMP and CUDA. Should it wait for one of them, the time limit ends it.

    worker ──▶ keeper ──▶ first process of its own namespace: the function, generated code
        pipe ◀────────────────┘

The keeper runs nothing generated and cannot be seen from inside. It kills the first process, and
with it the kernel kills every other of the namespace, whatever they did to their groups and
sessions, as soon as the worker lets go of the leash: a pipe that closes even when the worker is
killed.

The result comes back as JSON. A pickle that hostile code may have written would run in the worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import EvaluationError
from evomerge.evaluation.generated_code import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

MOST_BYTES = 2**24
"""Most bytes of a result."""
MOST_CHARACTERS = 300
"""Most characters of a message of the child: it may be hostile text, too."""
KEPT = ("PATH", "LANG", "LC_ALL", "TZ")
"""Environment variables that the child sees; none that could be a secret or a proxy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the child and its processes may use.

    Attributes:
        seconds: Seconds by the clock, and seconds of processor time of each process.
        memory: Bytes of each process, beyond what this process has.
        file: Bytes of one file.
        files: Bytes of all files together; they are kept in memory.
        processes: Processes and threads.
    """

    seconds: float
    memory: int = 2**30
    file: int = 2**24
    files: int = 2**26
    processes: int = 64


def sandboxed(function: Callable[[], Any], limits: Limits) -> Any:
    """Call a function in a child process without network, files of anybody, or secrets.

    Args:
        function: Returns plain data: numbers, texts, lists, dicts with texts as keys.
        limits: What it may use.

    Raises:
        EvaluationError: It failed, ran into a limit or ended without a result.
        OSError: The kernel has no sandbox for us; the function was not called.
    """
    if sys.platform != "linux":
        raise OSError(f"generated code is run on Linux only, and this is {sys.platform}")
    (result, report), (held, leash) = os.pipe(), os.pipe()
    keeper, status = None, None
    try:
        keeper = _fork()
        if keeper == 0:
            _keep(function, limits, report, held)
        os.close(report)
        said = _read(result, limits.seconds)
    finally:
        for each in (result, held, leash):
            os.close(each)
        if keeper is None:
            os.close(report)
        else:
            with contextlib.suppress(ChildProcessError):  # somebody else waits for all children
                status = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    return _understood(said, status)


def _understood(said: bytes, status: int | None) -> Any:
    if not said:
        raise EvaluationError(
            f"the process of generated code ended without a result, with status {status}: it "
            "left, was killed, or ran into the limit of memory or processor time"
        )
    try:
        kind, value = json.loads(said)
    except (ValueError, TypeError, RecursionError):
        raise EvaluationError("the process of generated code wrote what is no result") from None
    if kind == "result":
        return value
    text = "".join(c if c.isprintable() else " " for c in str(value)[:MOST_CHARACTERS])
    message = " ".join(text.split())
    raise OSError(message) if kind == "refused" else EvaluationError(message)


def _read(pipe: int, seconds: float) -> bytes:
    """All that comes out of a pipe until it is closed."""
    poll = select.poll()  # unlike select, it takes numbers above 1023
    poll.register(pipe, select.POLLIN)
    ends, said = time.monotonic() + seconds, b""
    while len(said) <= MOST_BYTES:
        left = ends - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise EvaluationError(f"generated code was stopped after {seconds:g} s")
        part = os.read(pipe, 2**16)
        if not part:
            return said
        said += part
    raise EvaluationError(f"the process of generated code wrote more than {MOST_BYTES} bytes")


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the module's docstring says what is done about them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _keep(function: Callable[[], Any], limits: Limits, report: int, held: int) -> NoReturn:
    """Be the keeper: start the first process, and kill it when the worker lets go."""
    status = 1
    try:
        number = os.getpid()
        os.setsid()  # Ctrl-C is for the worker
        _forget(keep={report, held})
        try:
            namespaces.leave()
        except Exception as error:  # noqa: BLE001 (nothing has been called yet)
            _tell(report, "refused", _reason(error))
            os._exit(1)
        first = os.fork()
        if first == 0:
            os.close(held)
            _run(function, limits, report, number)
        os.close(report)
        poll = select.poll()
        for each in (os.pidfd_open(first), held):
            poll.register(each, select.POLLIN)
        poll.poll()
        os.kill(first, signal.SIGKILL)  # not waited for yet, so the number is still its own
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        status = code if code >= 0 else 128 - code  # as shells say it
    finally:
        os._exit(status)


def _run(function: Callable[[], Any], limits: Limits, report: int, number: int) -> NoReturn:
    """Be the first process of the namespace: call the function and tell its result."""
    try:
        try:
            os.setsid()  # a signal to the own group would reach the keeper
            _limit(limits)
            namespaces.enter(limits.files)
            namespaces.drop_privileges(number)
            _forget_environment()
        except Exception as error:  # noqa: BLE001 (nothing has been called yet)
            _tell(report, "refused", _reason(error))
            os._exit(1)
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (generated code may also call sys.exit)
            _tell(report, "error", _reason(error))
        else:
            _tell(report, "result", result)
    finally:
        os._exit(0)


def _forget(keep: set[int]) -> None:
    """Let go of what a fork shares with its parent: open files, sockets, signal handlers."""
    gc.freeze()  # finalizers of the parent's objects are the parent's
    for each in signal.valid_signals():
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 (numbers, not paths)
        if int(entry) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(entry))
    # The lowest free numbers are given out first: input, output and errors.
    for number in range(3):
        if number not in keep:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def _forget_environment() -> None:
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    os.environ.clear()
    os.environ.update(kept, HOME=namespaces.FOLDER, TMPDIR=namespaces.FOLDER)
    tempfile.tempdir = None  # what it was for the parent
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 (stays open)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _limit(limits: Limits) -> None:
    # If memory runs out all the same, the kernel ends these processes rather than the worker.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    pages = [int(count) for count in Path("/proc/self/statm").read_text(encoding="utf-8").split()]
    mapped, data = (pages[n] * os.sysconf("SC_PAGE_SIZE") for n in (0, 5))
    for what, most in (
        # The C library reserves address space for each thread that it never uses.
        (resource.RLIMIT_AS, mapped + 4 * limits.memory),
        (resource.RLIMIT_DATA, data + limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CPU, int(limits.seconds) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        highest = resource.getrlimit(what)[1]
        lower = most if highest == resource.RLIM_INFINITY else min(most, highest)
        resource.setrlimit(what, (lower, lower))


def _tell(report: int, kind: str, value: Any) -> None:
    rest = json.dumps([kind, value]).encode()
    while rest:
        rest = rest[os.write(report, rest) :]


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{type(error).__name__}: {error.strerror}{where}"
    return f"{type(error).__name__}: {error}"
