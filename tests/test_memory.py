"""Memory that is freed is used again instead of being asked for anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# In a process of its own: how often fresh pages come depends on all that happened before.
SCRIPT = """
import resource
from pathlib import Path
import torch
from evomerge.memory import freed_memory_kept

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        several = [torch.ones(20_000_000) for _ in range(4)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

before = resident()
print(fresh_pages())
with freed_memory_kept():
    fresh_pages()
    print(fresh_pages())
    print(resident() - before)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    usual, kept, held, held_afterwards = map(int, done.stdout.split())
    assert kept < usual / 3
    # Four tensors in pages of 4 KiB.
    assert held > 4 * 19_000 > 10 * held_afterwards
