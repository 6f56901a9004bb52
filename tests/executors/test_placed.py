"""Promise: a long piece of work that is interrupted saves itself before the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from evomerge.errors import RunError
from evomerge.executors.placed import run_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT = """
import sys, time
from pathlib import Path
from evomerge.executors.placed import run_here

def work(report, stop):
    print("begun", flush=True)
    while not stop():
        time.sleep(0.01)
    time.sleep(1)
    Path(sys.argv[1]).write_text("saved")

run_here(work, print)
"""


def test_an_interrupt_waits_until_the_work_has_saved_itself(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "file"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert (tmp_path / "file").read_text() == "saved"


def test_what_the_work_raises_or_returns_reaches_the_caller() -> None:
    def fail(report: object, stop: Callable[[], bool]) -> None:
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        run_here(fail, print)
    assert run_here(lambda _, stop: stop(), print) is False


def ran(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
        check=False,
    )


RAY_SCRIPT = """
import os, signal
from evomerge.cli.stopping import Stopping
from evomerge.executors.ray import join_or_start

stopping = Stopping()
stopping.install()
join_or_start(1, None)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print(stopping.finish())
"""


def test_a_polite_end_is_as_polite_while_ray_runs() -> None:
    process = ran(RAY_SCRIPT)
    assert process.stdout == "143\n"
    assert process.stderr == "\nstopping; what is done is saved first\n"


GPU_SCRIPT = """
import os, ray
from evomerge.executors.placed import run_on_ray
from evomerge.executors.ray import gpu_share, join_or_start

ray.init("local", num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False)
ray = join_or_start(2, None)
print([gpu_share(ray, n, "auto") for n in (1, 3, 4, 7)], gpu_share(ray, 4, "cpu"))

def seen(report, stop):
    return os.environ.get("CUDA_VISIBLE_DEVICES")

for device in ("cuda", "cuda:1"):
    print(run_on_ray(seen, print, cpus=1, device=device, address=None))

def given(report, stop):
    return ray.get_runtime_context().get_assigned_resources()["CPU"]

print(run_on_ray(given, print, cpus=64, device="cpu", address=None))
"""


@pytest.mark.xdist_group("ray")
def test_workers_share_gpus_so_that_all_fit_and_work_gets_the_largest_machine_at_most() -> None:
    """Ray gives out GPUs by their numbers, whether or not they are there."""
    process = ran(GPU_SCRIPT)
    shares, one, own, largest = process.stdout.splitlines()
    assert shares == f"{[1.0, 1.0, 1 / 2, 1 / 3]} 0.0"
    assert one in {"0", "1", "2"}
    assert own == "None"  # sees all, and has to name one
    assert largest == "2.0"
