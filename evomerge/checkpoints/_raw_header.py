"""The bytes of a safetensors header, or what the file is instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER_BYTES = 100_000_000


def read_header_bytes(file: Path) -> bytes:
    """Return the first 8 bytes of `file` and the JSON that they announce, unparsed."""
    try:
        with file.open("rb") as stream:
            return _read_header(stream, file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}.") from error


def _read_header(stream: BinaryIO, file: Path) -> bytes:
    size = file.stat().st_size
    head = stream.read(512)
    if not head:
        raise ModelError(f"{file}: the file is empty; download or copy it again.")
    length = int.from_bytes(head[:8], "little")
    looks_wrong = len(head) < 8 or length > MAX_HEADER_BYTES or head[8:9] not in (b"{", b"")
    if looks_wrong:
        raise ModelError(f"{file}: {_recognise(head, length)}")
    if 8 + length > size:
        raise ModelError(
            f"{file}: incomplete: {size} of at least {8 + length} bytes; "
            "download or copy it again."
        )
    stream.seek(0)
    return stream.read(8 + length)


def _recognise(head: bytes, length: int) -> str:
    """Say what a file that is no safetensors file most likely is."""
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "this is a git-LFS pointer, not the weights; run 'git lfs pull' in its folder."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, not a safetensors file; download the file itself."
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "this is a pickle or zip renamed to .safetensors; pickles run code and are not "
            "accepted, convert it elsewhere."
        )
    if len(head) < 8:
        return f"incomplete: {len(head)} bytes, a safetensors file has at least 8; copy it again."
    if length > MAX_HEADER_BYTES:
        return (
            f"not a safetensors file: it announces a header of {length} bytes, "
            f"at most {MAX_HEADER_BYTES} are allowed."
        )
    return "not a safetensors file: its header does not begin with '{'."
