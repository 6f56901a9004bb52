"""Read the header of a safetensors file, and believe nothing in it.

Everything a reader later relies on is checked here, once: names, dtypes, shapes, and that the
byte ranges cover the file exactly. The values of the tensors are not looked at: a flipped bit in
the data is not noticed.

Format: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evomerge.checkpoints._raw_header import read_header_bytes
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
# Any real tensor is far below; beyond, torch's own size arithmetic overflows.
MAX_ELEMENTS = 2**48


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorHeader:
    """What a checkpoint says about one tensor, without its values.

    Attributes:
        dtype: The stored dtype.
        shape: The stored shape.
        file: The safetensors file that holds the tensor.
        start: First byte of the tensor, counted from the beginning of `file`.
        end: One past its last byte, counted likewise.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size of the tensor's values in `dtype`."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Read and check the header of one safetensors file, in the order of the data.

    Raises:
        ModelError: The file cannot be read, is no safetensors file, or its header is wrong.
    """
    return parse_header(read_header_bytes(file), file)


def parse_header(header: bytes, file: Path) -> dict[str, TensorHeader]:
    """Check the header of `file`, as `read_header_bytes` returns it, and split it by tensor."""
    entries = _decode(header[8:], file)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{file}: header entry '__metadata__' must map texts to texts.")
    headers = {
        name: _parse_entry(name, entry, origin=len(header), file=file)
        for name, entry in entries.items()
    }
    in_order = dict(sorted(headers.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_cover(in_order, origin=len(header), file=file)
    return in_order


def _decode(text: bytes, file: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for name, value in pairs:
            if name in names:
                raise ModelError(f"{file}: the header has {name!r} twice.")
            names[name] = value
        return names

    try:
        # It begins with '{', so what is valid is an object.
        entries: dict[str, Any] = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: the header is not UTF-8 at byte {8 + error.start}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: the header is not valid JSON: {error}.") from error
    return entries


def _parse_entry(name: str, entry: object, *, origin: int, file: Path) -> TensorHeader:
    where = f"{file}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where}: must have exactly dtype, shape and data_offsets.")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ModelError(f"{where}: unknown dtype {entry['dtype']!r}; known: {', '.join(DTYPES)}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or math.prod(max(1, size) for size in shape) > MAX_ELEMENTS:
        raise ModelError(
            f"{where}: shape {shape!r} is not a list of sizes >= 0 with at most "
            f"{MAX_ELEMENTS} elements."
        )
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ModelError(f"{where}: data_offsets {offsets!r} are not two numbers >= 0.")
    start, end = offsets
    header = TensorHeader(
        dtype=dtype, shape=tuple(shape), file=file, start=origin + start, end=origin + end
    )
    if end - start != header.nbytes:
        raise ModelError(
            f"{where}: data_offsets span {end - start} bytes, "
            f"{entry['dtype']} of shape {shape} needs {header.nbytes}."
        )
    return header


def _are_counts(values: object) -> bool:
    # `type(...) is int` because True and False are ints too.
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_cover(headers: Mapping[str, TensorHeader], *, origin: int, file: Path) -> None:
    """Check that the tensors, sorted by position, cover the data without gap or overlap."""
    position, previous = origin, "the header"
    for name, header in headers.items():
        if header.start != position:
            problem = "overlaps" if header.start < position else "leaves a hole after"
            raise ModelError(f"{file}: tensor {name!r} {problem} {previous}.")
        position, previous = header.end, f"tensor {name!r}"
    size = file.stat().st_size
    if size < position:
        raise ModelError(
            f"{file}: incomplete: {size} of {position} bytes; download or copy it again."
        )
    if size > position:
        raise ModelError(
            f"{file}: {size - position} bytes follow the last tensor; only {position} are its own."
        )


def dtype_code(dtype: torch.dtype) -> str:
    """Return the safetensors name of `dtype`.

    Raises:
        ModelError: safetensors has no such dtype.
    """
    for code, known in DTYPES.items():
        if known == dtype:
            return code
    raise ModelError(f"safetensors cannot store {dtype}; it can store {', '.join(DTYPES)}.")
