"""Siblings of the tiny family whose relation is known: a copy, and one that undoes another."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def plant_relatives(family: Path, out: Path) -> None:
    """Write `copy`, the same as `one`, and `mirror`.

    In layer 1, `mirror` has moved from the base by as much as `one`, in the opposite direction;
    elsewhere it is the base.
    """
    shutil.copytree(family / "one", out / "copy")
    base = load_file(family / "base" / "model.safetensors")
    one = load_file(family / "one" / "model.safetensors")
    shutil.copytree(family / "base", out / "mirror")
    mirrored = {
        name: _mirror(tensor, one[name]) if ".layers.1." in name else tensor
        for name, tensor in base.items()
    }
    save_file(mirrored, out / "mirror" / "model.safetensors", metadata={"format": "pt"})


def _mirror(base: Tensor, other: Tensor) -> Tensor:
    return (2 * base.float() - other.float()).to(base.dtype)
