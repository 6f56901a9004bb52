"""Promise: a command that is asked to end does so wherever it is."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, signal, sys, time
from evomerge.cli.stopping import Stopping

stopping = Stopping()
stopping.install()
# As logging's hooks: what is raised in them is no error of the fork.
os.register_at_fork(after_in_parent=lambda: {raised} and signal.raise_signal(signal.SIGTERM))
try:
    if not os.fork():
        os._exit(0)
    time.sleep({seconds})
except KeyboardInterrupt:
    sys.exit(stopping.finish())
"""


FAILS_WHEN_INTERRUPTED = """
import signal, sys
from evomerge.cli import main

def fail(**_):
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as error:
        raise RuntimeError("cannot join thread before it is started") from error

sys.modules["evomerge.cli.main"].commands.main = fail
main()
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_signal_in_the_middle_of_a_fork_is_not_lost() -> None:
    result = run(SCRIPT.format(raised=True, seconds=50))
    assert result.returncode == 128 + 15
    assert result.stderr == "\nstopping; what is done is saved first\n"


def test_nothing_is_interrupted_that_nobody_asked_to_end() -> None:
    result = run(SCRIPT.format(raised=False, seconds=0))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_library_that_fails_because_it_was_interrupted_is_no_mistake_of_ours() -> None:
    result = run(FAILS_WHEN_INTERRUPTED)
    assert result.returncode == 128 + 15
    assert result.stderr == "\nstopping; what is done is saved first\n"
