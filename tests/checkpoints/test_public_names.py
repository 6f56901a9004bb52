"""The room's public names are those it lists, and it loads no heavy library of its own accord."""

from __future__ import annotations

import subprocess
import sys

import pytest

import evomerge.checkpoints as room


def test_the_listed_names_are_sorted_and_exist():
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)


@pytest.mark.slow
def test_importing_the_room_loads_no_hub_and_no_transformers():
    heavy = {"huggingface_hub", "transformers", "peft"}
    script = f"import sys, evomerge.checkpoints; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
