"""Which tensor of a new checkpoint goes to which byte of which shard."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints.headers import dtype_code
from evomerge.checkpoints.model_folder import SINGLE
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

TensorSpec = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One safetensors file to be written.

    Attributes:
        file_name: Its name in the model folder.
        header: Its first bytes: length and JSON, padded to 8 bytes.
        offsets: First byte of every tensor, counted from the beginning of the file.
        tensor_bytes: How many bytes the tensors take.
    """

    file_name: str
    header: bytes
    offsets: Mapping[str, int]
    tensor_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.tensor_bytes


def plan_shards(tensors: Mapping[str, TensorSpec], max_shard_bytes: int) -> tuple[Shard, ...]:
    """Distribute tensors over shards, in order; a tensor larger than a shard gets its own.

    Raises:
        ModelError: There are no tensors, a dtype cannot be stored, or the limit is below 1.
    """
    if not tensors:
        raise ModelError("a checkpoint needs at least one tensor.")
    if max_shard_bytes < 1:
        raise ModelError(f"max_shard_bytes: {max_shard_bytes} is below 1.")
    if "__metadata__" in tensors:
        raise ModelError("'__metadata__' cannot be a tensor's name; safetensors reserves it.")
    groups: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, spec in tensors.items():
        if groups[-1] and filled + _nbytes(spec) > max_shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = spec
        filled += _nbytes(spec)
    if len(groups) == 1:
        return (_shard(SINGLE, groups[0]),)
    return tuple(
        _shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, start=1)
    )


def _nbytes(spec: TensorSpec) -> int:
    dtype, shape = spec
    return math.prod(shape) * dtype.itemsize


def _shard(file_name: str, tensors: Mapping[str, TensorSpec]) -> Shard:
    # Wide dtypes first, so that every tensor is aligned to its own width.
    in_layout = dict(sorted(tensors.items(), key=lambda item: -item[1][0].itemsize))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts = {}
    position = 0
    for name, (dtype, shape) in in_layout.items():
        starts[name] = position
        position += _nbytes((dtype, shape))
        entries[name] = {
            "dtype": dtype_code(dtype),
            "shape": list(shape),
            "data_offsets": [starts[name], position],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Shard(
        file_name=file_name,
        header=header,
        offsets={name: len(header) + start for name, start in starts.items()},
        tensor_bytes=position,
    )
