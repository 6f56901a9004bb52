"""Promise: kill -9 at any moment, resume, and the run ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outcomes(run: Path) -> int:
    try:
        with sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True) as connection:
            (count,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
            return int(count)
    except sqlite3.Error:
        return -1


def test_ten_kills_change_nothing_about_the_leaderboard(
    family: Path,
    tmp_path: Path,
) -> None:
    recipe = write_recipe(tmp_path, family, strategy="DE")
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    assert run_cli("search", recipe, "--run", whole).code == 0
    dice = random.Random(4)
    for kill in range(KILLS):
        process = start("search", recipe, "--run", broken)
        # Each kill waits for one more outcome than the last, so that all of the run is covered.
        while outcomes(broken) < kill and process.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run_cli("resume", broken).code == 0
    expected, found = (run_cli("leaderboard", r, "--json").out for r in (whole, broken))
    assert found == expected


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_search_says_how_to_continue(
    family: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    recipe, run = write_recipe(tmp_path, family), tmp_path / "run"
    # More candidates than can be done before the signal arrives.
    endless = ["--set", "search.candidates=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "evomerge", "search", str(recipe), "--run", str(run), *endless],
        stderr=subprocess.PIPE,
        text=True,
    )
    while outcomes(run) < 1 and process.poll() is None:
        time.sleep(0.005)
    stopped = time.monotonic()
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - stopped < 10
    assert f"Continue with: evomerge resume {run}" in errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def large_family(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models so large that several processes merge them, and none is done at once."""
    folder = tmp_path_factory.mktemp("large")
    layers = {f"model.layers.{n}.mlp.big.weight": torch.rand(4096, 4096) for n in range(4)}
    for name in ("base", "one"):
        shutil.copytree(family / name, folder / name)
        file = folder / name / "model.safetensors"
        save_file({**load_file(file), **layers}, file, {"format": "pt"})
    (folder / "recipe.yaml").write_text(
        "base: base\nsources: [one]\noperator: della\nparameters: {weight: 1, density: 0.5}\n"
    )
    return folder


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_merge_that_is_told_many_times_to_stop_leaves_nothing(
    sent: signal.Signals, large_family: Path, tmp_path: Path
) -> None:
    recipe = large_family / "recipe.yaml"
    (tmp_path / "out").mkdir()
    process = start("merge", recipe, tmp_path / "out" / "model")
    while not any((tmp_path / "out").iterdir()) and process.poll() is None:
        time.sleep(0.001)
    for _ in range(5):
        process.send_signal(sent)
        time.sleep(0.02)
    assert process.wait(timeout=30) == 128 + sent
    assert not any((tmp_path / "out").iterdir())
