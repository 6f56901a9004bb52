"""Promise: a function in the sandbox gives its result, and can do nothing else to the machine.

Every test starts a real child process. Where the kernel has no sandbox, they are skipped, and
`test_a_system_without_a_sandbox_is_an_error` alone says what happens then.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evomerge.errors import EvaluationError
from evomerge.evaluation.generated_code import namespaces
from evomerge.evaluation.generated_code.sandbox import Limits, sandboxed

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTE = 2**20
SMALL = {"memory": 128 * MEBIBYTE, "files": 8 * MEBIBYTE, "file": 4 * MEBIBYTE, "processes": 16}
"""Limits that keep the bombs in these tests small, should they go off."""


def has_sandbox() -> bool:
    try:
        return bool(sandboxed(lambda: True, Limits(seconds=30)))
    except OSError:
        return False


needs_sandbox = pytest.mark.skipif(not has_sandbox(), reason="the kernel has no sandbox for us")


def run(function: Callable[[], Any], **limits: Any) -> Any:
    return sandboxed(function, Limits(**{"seconds": 30, **SMALL, **limits}))


def outcome(action: Callable[..., Any], *arguments: Any) -> str:
    """The name of the error of an action of the system, or `done`."""
    try:
        action(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"


@needs_sandbox
def test_the_result_comes_back_to_the_last_bit() -> None:
    result = {"scores": [0.1 + 0.2, 1e-310, float("inf")], "text": "é", "none": None}
    assert run(lambda: result) == result


@needs_sandbox
def test_an_exception_comes_back_as_one_line() -> None:
    def fail() -> None:
        raise ValueError("two\nlines \x1b[31m" + 1000 * "x")

    with pytest.raises(EvaluationError, match=r"^ValueError: two lines \[31mx+$") as caught:
        run(fail)
    assert len(str(caught.value)) <= 300


@needs_sandbox
@pytest.mark.parametrize(
    "leave", [lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL) or os._exit(7)]
)
def test_leaving_without_a_result_is_an_error(leave: Callable[[], Any]) -> None:
    with pytest.raises(EvaluationError, match="ended without a result, with status"):
        run(leave)


@needs_sandbox
def test_sys_exit_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="SystemExit: 0"):
        run(lambda: sys.exit(0))


@needs_sandbox
@pytest.mark.parametrize("garbage", [b"{", b"[[", b'"text"', b"[1, 2, 3]", b"\xff", 10**5 * b"["])
def test_garbage_in_place_of_a_result_is_an_error(garbage: bytes) -> None:
    def write_everywhere() -> None:
        for number in range(64):
            outcome(os.write, number, garbage)
        os._exit(0)

    with pytest.raises(EvaluationError, match="wrote what is no result"):
        run(write_everywhere)


@needs_sandbox
def test_a_result_without_end_is_an_error() -> None:
    def write() -> None:
        while True:
            for number in range(64):
                outcome(os.write, number, bytes(2**16))

    with pytest.raises(EvaluationError, match="wrote more than 16777216 bytes"):
        run(write)


def busy() -> None:
    while True:
        pass


@needs_sandbox
def test_an_endless_loop_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(EvaluationError, match=r"stopped after 0.5 s"):
        run(busy, seconds=0.5)
    assert time.monotonic() - started < 10


@needs_sandbox
def test_a_process_that_ignores_signals_is_stopped() -> None:
    def ignore() -> None:
        for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(each, signal.SIG_IGN)
        busy()

    with pytest.raises(EvaluationError, match=r"stopped after"):
        run(ignore, seconds=0.5)


def alive_with(mark: str) -> list[str]:
    """Processes whose command line holds a text."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
        except OSError:
            continue
        if mark.encode() in command:
            found.append(str(file))
    return found


@needs_sandbox
def test_no_process_outlives_the_call() -> None:
    mark = f"sleep 98{os.getpid()}"

    def start() -> str:
        subprocess.Popen(["/bin/sh", "-c", f"{mark}; true"], start_new_session=True)
        return "started"

    assert run(start) == "started"
    assert alive_with(mark) == []


@needs_sandbox
def test_the_processes_end_when_the_worker_is_killed() -> None:
    mark = f"97{os.getpid()}"
    code = (
        "import subprocess\n"
        "from evomerge.evaluation.generated_code.sandbox import Limits, sandboxed\n"
        f"sandboxed(lambda: subprocess.run(['/bin/sleep', '{mark}']) and 1, Limits(seconds=60))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: alive_with(f"/bin/sleep\0{mark}"))
    worker.kill()
    worker.wait()
    wait_until(lambda: not alive_with(f"/bin/sleep\0{mark}"))


def wait_until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


@needs_sandbox
def test_a_memory_bomb_goes_off_inside() -> None:
    def grow() -> None:
        kept = []
        while True:
            kept.append(bytearray(MEBIBYTE))

    with pytest.raises(EvaluationError, match=r"MemoryError|ended without a result"):
        run(grow)


@needs_sandbox
def test_the_limit_of_memory_is_what_is_used_beyond_what_is_there() -> None:
    assert run(lambda: len(bytearray(100 * MEBIBYTE))) == 100 * MEBIBYTE


@needs_sandbox
def test_a_fork_bomb_meets_a_limit_even_as_root() -> None:
    # At most 40 processes, should the limit not hold: this must not take a machine down.
    def forks() -> int:
        started = 0
        try:
            while started < 40:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                started += 1
        except BlockingIOError:
            return started
        return started

    assert 0 < run(forks) < 16


@needs_sandbox
def test_threads_count_as_processes() -> None:
    def start() -> int:
        held = threading.Event()
        started = 0
        try:
            while started < 40:
                threading.Thread(target=held.wait, daemon=True).start()
                started += 1
        except RuntimeError:
            return started
        return started

    assert 0 < run(start) < 16


@needs_sandbox
def test_no_signal_reaches_a_process_outside() -> None:
    # Signal 0 only asks whether there is a process: this must not end the machine's.
    own, alive = os.getpid(), 0

    def ask() -> list[str]:
        return [outcome(os.kill, target, alive) for target in (-1, own)]

    assert own > 10, "a number that the sandbox does not come to"
    assert run(ask) == ["ProcessLookupError", "ProcessLookupError"]
    assert run(os.getppid) == 0


@needs_sandbox
def test_its_group_and_session_are_its_own() -> None:
    assert run(lambda: [os.getpid(), os.getpgrp(), os.getsid(0)]) == [1, 1, 1]


@needs_sandbox
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def connect() -> str:
            try:
                socket.create_connection(address, timeout=5).close()
            except OSError as error:
                return str(error)
            return "connected"

        assert connect() == "connected"
        assert "unreachable" in run(connect)


@needs_sandbox
@pytest.mark.parametrize("abstract", [True, False])
def test_there_are_no_local_sockets(tmp_path: Path, abstract: bool) -> None:
    name = f"\0evomerge-{os.getpid()}" if abstract else str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()

        def connect() -> str:
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(name)
                except OSError as error:
                    return type(error).__name__
            return "connected"

        assert connect() == "connected"
        assert run(connect) in {"ConnectionRefusedError", "FileNotFoundError"}


@needs_sandbox
def test_files_and_sockets_that_we_have_open_are_closed(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, socket.socket() as connection:
        numbers = (file.fileno(), connection.fileno())

        def use() -> list[str]:
            return [outcome(os.write, number, b"hello") for number in numbers]

        assert run(use) == ["OSError", "OSError"]
    assert (tmp_path / "open").read_bytes() == b""


@needs_sandbox
def test_input_is_empty_and_what_is_printed_vanishes(capfd: pytest.CaptureFixture[str]) -> None:
    def talk() -> str:
        sys.stdout.write("hello\n")
        sys.stderr.write("hello\n")
        os.write(1, b"hello")
        os.write(2, b"hello")
        subprocess.run(["/bin/echo", "hello"], check=True)
        return sys.stdin.read()

    assert run(talk) == ""
    assert capfd.readouterr() == ("", "")


@needs_sandbox
def test_secrets_are_not_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "https_proxy", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    seen = run(lambda: [dict(os.environ), subprocess.check_output(["/usr/bin/env"]).decode()])
    assert "secret" not in str(seen)
    assert seen[0].keys() <= {"PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR"}
    assert run(lambda: Path("/proc/self/environ").exists()) is False


@needs_sandbox
def test_files_of_ours_are_neither_seen_nor_changed(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")

    def look() -> list[bool]:
        places = [tmp_path, tmp_path / "diary", Path("/etc/passwd"), Path("/run"), Path("/home")]
        return [place.exists() for place in places]

    assert run(look) == [False] * 5
    run(lambda: (tmp_path.mkdir(parents=True), (tmp_path / "diary").write_text("changed"))[1])
    assert (tmp_path / "diary").read_text() == "dear diary"


@needs_sandbox
def test_what_python_needs_can_be_read_and_not_written() -> None:
    places = [Path(os.__file__), Path(pytest.__file__), Path("/usr/bin/env")]

    def change() -> list[str]:
        return [outcome(each.open, "ab") for each in places]

    assert run(lambda: [len(each.read_bytes()) > 0 for each in places]) == [True] * 3
    assert set(run(change)) <= {"OSError", "PermissionError"}


@needs_sandbox
def test_it_works_in_an_empty_folder_that_vanishes() -> None:
    def work() -> list[Any]:
        found = [str(Path.cwd()), len(list(Path().iterdir())), tempfile.gettempdir()]
        Path("evomerge-here").write_text("x")
        with tempfile.NamedTemporaryFile(prefix="evomerge-here", delete=False) as file:
            file.write(b"x")
        return found

    for _ in range(2):
        assert run(work) == ["/sandbox", 0, "/sandbox"]
    for folder in (Path(), Path(tempfile.gettempdir())):
        assert not list(folder.glob("evomerge-here*"))
    assert not Path("/sandbox").exists()


@needs_sandbox
def test_files_have_a_size_limit() -> None:
    def write() -> None:
        with Path("big").open("wb") as file:
            file.writelines(bytes(MEBIBYTE) for _ in range(8))

    with pytest.raises(EvaluationError, match="OSError: File too large"):
        run(write)


@needs_sandbox
def test_all_files_together_have_a_size_limit() -> None:
    def write() -> None:
        for number in range(16):
            Path(f"part{number}").write_bytes(bytes(MEBIBYTE))

    with pytest.raises(EvaluationError, match="OSError: No space left on device"):
        run(write)


@needs_sandbox
def test_limits_cannot_be_raised() -> None:
    def raise_limits() -> str:
        most = resource.RLIM_INFINITY
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        except (ValueError, OSError) as error:
            return type(error).__name__
        return "raised"

    assert run(raise_limits) == "ValueError"


@needs_sandbox
def test_there_are_no_privileges_to_mount_or_to_become_root() -> None:
    attempts = [
        lambda: namespaces._mount("tmpfs", "/usr", "tmpfs", 0),
        lambda: os.setuid(0),
        lambda: os.chroot("/usr"),
    ]
    assert run(lambda: [*map(outcome, attempts)]) == 3 * ["PermissionError"]


@needs_sandbox
def test_a_worker_with_threads_can_use_it_over_and_over() -> None:
    import torch

    torch.ones(500, 500) @ torch.ones(500, 500)  # OpenMP has threads now
    numbers = len(list(Path("/proc/self/fd").iterdir()))
    assert [run(lambda n=n: n) for n in range(20)] == list(range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) == numbers
    assert float((torch.ones(500, 500) @ torch.ones(500, 500))[0, 0]) == 500


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="all the other tests are it, then")
def test_it_is_the_same_for_a_user_who_is_not_root() -> None:
    code = """
import ctypes, json, os, signal
from evomerge.evaluation.generated_code import namespaces
from evomerge.evaluation.generated_code.sandbox import Limits, sandboxed

os.setgroups([]), os.setresgid(4242, 4242, 4242), os.setresuid(4242, 4242, 4242)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as of a process that was 4242 from the start
forks = []

def attempt():
    try:
        while len(forks) < 40:
            forks.append(os.fork())
            if forks[-1] == 0:
                signal.pause()
    except BlockingIOError:
        pass
    try:
        namespaces._mount("tmpfs", "/usr", "tmpfs", 0)
    except PermissionError:
        return [os.getuid(), os.getpid(), os.getpgrp(), len(forks) < 16, os.listdir()]

print(json.dumps(sandboxed(attempt, Limits(seconds=30, processes=16))))
"""
    environment = os.environ | {"HOME": "/home/4242"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip("users have no namespaces here")
    assert (done.stdout, done.stderr) == ("[4242, 1, 1, true, []]\n", "")


def test_a_system_without_a_sandbox_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    called = Path(tempfile.mkdtemp()) / "called"

    def refuse(*_: object) -> None:
        raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(namespaces, "leave", refuse)
    with pytest.raises(OSError, match="PermissionError: unshare: Operation not permitted"):
        sandboxed(called.touch, Limits(seconds=30))
    assert not called.exists()
    called.parent.rmdir()


def test_other_systems_than_linux_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="on Linux only, and this is darwin"):
        sandboxed(lambda: None, Limits(seconds=30))
