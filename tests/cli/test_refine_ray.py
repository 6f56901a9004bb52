"""A winner is refined under Ray as in one process, whatever ends the command in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command_line import run_cli, write_refined_search

from evomerge.live_model import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ON_RAY = ("--set", "executor.kind=ray", "--set", "executor.workers=1")
LONGER = [
    argument
    for change in ("train.epochs=20", "train.patience=1000", "control=false")
    for argument in ("--set", f"refine.{change}")
]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def leaderboard(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_cli("leaderboard", run, "--json").out)
    return found


def course(run: Path) -> dict[str, Any]:
    """How the one student of a run was trained."""
    (found,) = leaderboard(run)["refinement"]["courses"].values()
    return found | {"seconds": 0}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where each Ray that is started has a folder; the paths of its sockets must be short."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_one_command_searches_refines_and_exports_the_same_model_under_ray(
    family: Path, refined: Path, tmp_path: Path, sessions: Path
) -> None:
    file, run, out = write_refined_search(tmp_path, family), tmp_path / "run", tmp_path / "out"
    process = start("search", file, "--run", run, "--export", out, *ON_RAY)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "refined: training: " in errors
    rows = {row["kind"]: row for row in leaderboard(run)["candidates"]}
    (student,) = rows["refined"]["parents"]
    assert student in {row["candidate"] for row in leaderboard(run)["candidates"]}
    assert leaderboard(run)["verdict"]["winner"] == rows["refined"]["candidate"]
    assert "It was refined by distillation." in (out / "README.md").read_text()
    load_model(out, torch.float32, torch.device("cpu"))
    here = (refined / "out" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == here
    assert len(list(sessions.glob("ray/session_2*"))) == 1


def test_a_training_whose_command_is_killed_and_stopped_ends_as_one_that_nothing_disturbed(
    refined: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "whole", tmp_path / "broken"]
    for run in runs:
        shutil.copytree(refined / "run", run)
    whole, broken = runs
    command = ("search", refined / "search.yaml", "--run", broken, *LONGER)

    process = start(*command, *ON_RAY)
    while not saved(broken) and process.poll() is None:
        time.sleep(0.01)
    placed = set(workers_of(process.pid))
    process.kill()
    process.communicate()
    assert placed
    assert ended(placed)

    before = saved(broken)
    process = start(*command, *ON_RAY)
    step = await_step(process)
    # A terminal that is closed tells Ray's processes, too.
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    assert f"Continue with: evomerge resume {broken}" in errors
    assert "Traceback" not in errors
    assert before < step <= saved(broken)

    assert run_cli(*command).code == 0
    assert run_cli(*command[:3], whole, *LONGER).code == 0
    assert course(broken) == course(whole)


def saved(run: Path) -> int:
    """The step of the last checkpoint; 0 if there is none."""
    found = run.glob("refined/*/checkpoints/checkpoint-*")
    return max((int(each.name.partition("-")[2]) for each in found), default=0)


def await_step(process: subprocess.Popen[str]) -> int:
    """The step at which a training says for the first time how far it is."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"training: (\d+)/", line):
            return int(found[1])
    return -1


def workers_of(ancestor: int) -> Iterator[int]:
    """Ray's workers below a process."""
    below = {ancestor}
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(stat[1])
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    for process in below:
        if b"ray::_" in Path(f"/proc/{process}/cmdline").read_bytes():
            yield process


def ended(processes: set[int], within_s: float = 60) -> bool:
    """Whether processes end soon."""
    latest = time.monotonic() + within_s
    while left := [each for each in processes if Path(f"/proc/{each}").exists()]:
        if time.monotonic() > latest:
            return False
        time.sleep(0.05)
    return not left
