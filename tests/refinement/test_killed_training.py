"""A training that is killed goes on as if nothing had happened, whatever it learns from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from students import distillation, never, quiet

from evomerge.recipe.distillation import Teacher
from evomerge.refinement.distil import distil

if TYPE_CHECKING:
    from evomerge.refinement.distillation import Distillation

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path
from students import never, quiet
from test_killed_training import KINDS
from evomerge.refinement.distil import distil
distil(KINDS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])), quiet, never)
"""


def from_texts(family: Path, folder: Path) -> Distillation:
    """A low-rank update that learns from texts alone."""
    return distillation(family, folder)


def from_a_cache(family: Path, folder: Path) -> Distillation:
    """A low-rank update that learns from two teachers, whose predictions are kept."""
    teachers = tuple(Teacher(model=str(family / name), name=name) for name in ("one", "two"))
    cache = {"folder": str(folder.parent / "caches"), "k": 16}
    return distillation(family, folder, teachers, cache=cache)


def of_all_weights(family: Path, folder: Path) -> Distillation:
    """All weights, which learn from texts alone."""
    return distillation(family, folder, train={"what": "full", "rate": 1e-3})


KINDS = {"texts": from_texts, "cache": from_a_cache, "full": of_all_weights}


def weights(folder: Path) -> list[tuple[str, bytes]]:
    """What was trained; the folder of a whole model has a name that is not its content's."""
    return [(file.name, file.read_bytes()) for file in sorted(folder.rglob("*.safetensors"))]


@pytest.fixture(scope="module")
def whole(
    family: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], list[tuple[str, bytes]]]]:
    """Course and weights of trainings that nothing disturbed."""
    found = {}
    for name, work in KINDS.items():
        folder = tmp_path_factory.mktemp(name) / "student"
        found[name] = distil(work(family, folder), quiet, never).course, weights(folder)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "kill_at"),
    [
        ("texts", "student/checkpoints/checkpoint-2"),
        ("texts", "student/checkpoints/.saving"),
        ("texts", "student/checkpoints/best.safetensors"),
        ("cache", "caches/*/*"),
        ("cache", "student/checkpoints/checkpoint-2"),
        ("full", "student/checkpoints/checkpoint-2"),
    ],
)
def test_a_training_that_is_killed_goes_on_to_the_same_losses_and_weights_bit_for_bit(
    family: Path, tmp_path: Path, whole: dict[str, Any], name: str, kill_at: str
) -> None:
    folder = tmp_path / "student"
    command = [sys.executable, "-c", SCRIPT, name, str(family), str(folder)]
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": here}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not any(tmp_path.glob(kill_at)):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (folder / "course.json").exists()
    distil(KINDS[name](family, folder), quiet, never)
    course, expected = whole[name]
    found = json.loads((folder / "course.json").read_text())
    assert found["losses"] == course["losses"]
    assert found["validation_losses"] == course["validation_losses"]
    assert weights(folder) == expected
    assert expected
    assert not (folder / "checkpoints").exists()
    shutil.rmtree(folder)
