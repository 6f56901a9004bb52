"""mergekit for tests: as a program, or as one process that is asked again and again."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load, save

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

ORACLE = os.environ.get("EVOMERGE_ORACLE")

NEEDED = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(ORACLE is None, reason="EVOMERGE_ORACLE names no python with mergekit"),
]
"""Marks of every module that runs it as a program."""

MARKS = [*NEEDED, pytest.mark.xdist_group("mergekit")]
"""Marks of every module that asks it of tensors: its imports take seconds."""

# A line of JSON and a safetensors file of so many bytes: what is asked, and what is answered.
SERVER = """
import json, sys
import torch
from safetensors.torch import load, save
from mergekit.merge_methods import merge_tensors

asked, answered, sys.stdout = sys.stdin.buffer, sys.stdout.buffer, sys.stderr
torch.set_num_threads(1)
for line in asked:
    call = json.loads(line)
    tensors = load(asked.read(call["size"]))["stack"].unbind()
    dtypes = {key: getattr(torch, call[key]) for key in ("dtype", "out_dtype") if call[key]}
    torch.manual_seed(call["seed"])
    try:
        merged = merge_tensors(
            tensors, call["method"], parameters=call["parameters"],
            base_index=0 if call["base"] else None, **dtypes,
        )
        answer, body = {}, save({"merged": merged.contiguous()})
    except Exception as error:
        answer, body = {"error": f"{type(error).__name__}: {error}"}, b""
    answered.write(json.dumps(answer | {"size": len(body)}).encode() + b"\\n" + body)
    answered.flush()
"""


def run_mergekit(program: str, *arguments: object) -> None:
    """Run a program where mergekit is, and see that it ends well."""
    done = subprocess.run(
        [str(ORACLE), "-c", program, *map(str, arguments)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class MergekitError(Exception):
    """mergekit refuses or fails."""


def merge_with_mergekit(
    method: str,
    stack: Tensor,
    parameters: Mapping[str, Any],
    *,
    base: bool,
    dtype: torch.dtype | None = None,
    out_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Tensor:
    """Let mergekit merge one tensor.

    Args:
        method: Its method.
        stack: The models, shape `(M, *S)`.
        parameters: mergekit's; a list has a value for each model.
        base: Whether the first model is the base.
        dtype: Of the arithmetic; None for that of the stack.
        out_dtype: Of the result; None for what the arithmetic gives.
        seed: Of random numbers.

    Returns:
        Shape `(*S,)`.

    Raises:
        MergekitError: mergekit raises anything.
    """
    body = save({"stack": stack.contiguous()})
    call = {"method": method, "parameters": dict(parameters), "base": base, "seed": seed}
    for key, value in (("dtype", dtype), ("out_dtype", out_dtype)):
        call[key] = None if value is None else str(value).removeprefix("torch.")
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(call | {"size": len(body)}).encode() + b"\n" + body)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if "error" in answer:
        raise MergekitError(answer["error"])
    return load(process.stdout.read(answer["size"]))["merged"]


@functools.cache
def _process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [str(ORACLE), "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    atexit.register(process.kill)
    return process
