"""Whatever happens to a writer, the model folder is whole or it is not there."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from evomerge.checkpoints import CheckpointWriter, ModelFolder
from evomerge.errors import ModelError, OutputError

TENSORS = {"b": torch.arange(6.0), "a": torch.tensor([1, 2, 3]), "c": torch.tensor(2.5)}
SPECS = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def finish(writer: CheckpointWriter) -> None:
    for name, tensor in TENSORS.items():
        writer.write(name, tensor)
    writer.add_file("config.json", b'{"architectures": ["LlamaForCausalLM"]}')


def write(out: Path) -> None:
    with CheckpointWriter(out, SPECS, max_shard_bytes=24) as writer:
        finish(writer)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def test_a_target_that_is_filled_meanwhile_is_kept(tmp_path):
    def write_while_another_does() -> None:
        with CheckpointWriter(tmp_path / "o", SPECS) as writer:
            finish(writer)
            (tmp_path / "o").mkdir()
            (tmp_path / "o" / "mine").touch()

    with pytest.raises(OutputError, match="cannot be written"):
        write_while_another_does()
    assert [path.name for path in tmp_path.rglob("*")] == ["o", "mine"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no")])
def test_an_error_of_the_caller_leaves_nothing_and_comes_through(tmp_path, error):
    def write_and_fail() -> None:
        with CheckpointWriter(tmp_path / "out", SPECS) as writer:
            writer.write("b", TENSORS["b"])
            raise error

    with pytest.raises(type(error), match="no"):
        write_and_fail()
    assert is_empty(tmp_path)


def test_whatever_call_fails_the_folder_is_whole_or_absent(tmp_path, monkeypatch):
    for broken in ("fsync", "rename"):
        for count in range(20):
            out = tmp_path / f"{broken}-{count}"
            with monkeypatch.context() as patch:
                fail_at(patch, broken, count)
                # The last counts are beyond the last call, so nothing fails.
                with suppress(OutputError):
                    write(out)
            if out.exists():
                assert ModelFolder(out).read("c").item() == 2.5
                assert (out / "evomerge-complete.json").exists()
            assert not list(tmp_path.glob(".tmp-*"))
        assert not (tmp_path / f"{broken}-0").exists()
        assert out.exists()


def fail_at(patch: pytest.MonkeyPatch, broken: str, count: int) -> None:
    """Make one call of `os.fsync` or `Path.rename` fail, the one after `count` that work."""
    owner = os if broken == "fsync" else Path
    original, calls = getattr(owner, broken), iter(range(1000))

    def call(*args: object) -> object:
        if next(calls) == count:
            raise OSError(5, "Input/output error")
        return original(*args)

    patch.setattr(owner, broken, call)


WRITE_AND = """
import os, signal, sys, torch
from pathlib import Path
from evomerge.checkpoints import CheckpointWriter

tensors = {f"x{i}": (torch.float32, (1000,)) for i in range(3)}
with CheckpointWriter(Path(sys.argv[1]), tensors, max_shard_bytes=4000) as writer:
    writer.add_file("config.json", b"{}")
    writer.write("x0", torch.zeros(1000))
    writer.write("x1", torch.zeros(1000))
    ACTION
    writer.write("x2", torch.zeros(1000))
"""


def run_and(action: str, out: Path) -> subprocess.CompletedProcess[str]:
    script = WRITE_AND.replace("ACTION", action)
    command = [sys.executable, "-c", script, str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_at_out_and_the_next_one_cleans_up(tmp_path):
    out, other = tmp_path / "out", tmp_path / ".tmp-other-00000000000000000000000000000000"
    other.mkdir()
    done = run_and("os.kill(os.getpid(), signal.SIGKILL)", out)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    assert len(list(tmp_path.glob(".tmp-out-*"))) == 1
    write(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    done = run_and(limit, tmp_path / "out")
    assert done.returncode == 1
    assert "OutputError" in done.stderr.splitlines()[-1]
    assert "cannot be written: File too large; check the disk" in done.stderr
    assert is_empty(tmp_path)


def test_the_folder_of_a_live_writer_is_not_swept(tmp_path):
    out = tmp_path / "out"
    with CheckpointWriter(out, SPECS) as writer:
        with (
            pytest.raises(ModelError, match="not finished"),
            CheckpointWriter(out, SPECS),
        ):
            pass
        finish(writer)
    assert ModelFolder(out).headers


def test_a_disk_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", fail)
    write(tmp_path / "out")
    assert ModelFolder(tmp_path / "out").headers


def test_an_interrupt_before_the_first_tensor_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fcntl, "flock", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    assert is_empty(tmp_path)
