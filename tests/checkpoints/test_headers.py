"""A safetensors header is believed only after every number in it has been checked."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoints import read_headers
from evomerge.checkpoints.headers import DTYPES, dtype_code
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


def entry(start: int, end: int, *, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def craft(folder: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a safetensors file byte by byte; `header` is JSON or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    file = folder / "crafted.safetensors"
    file.write_bytes(size.to_bytes(8, "little") + text + data)
    return file


def refuses(file: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        read_headers(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_header_gives_dtype_shape_and_absolute_position(tmp_path):
    values = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([True, False])}
    file = tmp_path / "m.safetensors"
    save_file(values, file, {"format": "pt"})
    headers = read_headers(file)
    assert {n: (h.dtype, h.shape, h.nbytes) for n, h in headers.items()} == {
        "b": (torch.float32, (2, 3), 24),
        "a": (torch.bool, (2,), 2),
    }
    header = headers["b"]
    assert header.file == file
    content = file.read_bytes()[header.start : header.end]
    assert content == values["b"].numpy().tobytes()


def test_every_dtype_of_torch_that_safetensors_stores_is_known(tmp_path):
    file = tmp_path / "m.safetensors"
    save_file({code: torch.zeros(3, dtype=dtype) for code, dtype in DTYPES.items()}, file)
    assert {code: header.dtype for code, header in read_headers(file).items()} == DTYPES
    assert [dtype_code(dtype) for dtype in DTYPES.values()] == list(DTYPES)


def test_a_dtype_that_safetensors_lacks_is_refused():
    with pytest.raises(ModelError, match=r"cannot store torch\.complex128"):
        dtype_code(torch.complex128)


def test_scalars_and_empty_tensors_are_read(tmp_path):
    file = craft(tmp_path, {"e": entry(0, 0, shape=[0, 5]), "s": entry(0, 4, shape=[])}, b"abcd")
    assert {n: h.shape for n, h in read_headers(file).items()} == {"e": (0, 5), "s": ()}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"\x07\0\0\0\0\0\0", "incomplete: 7 bytes", id="seven bytes"),
        pytest.param((2**40).to_bytes(8, "little") + b"{}", "at most 100000000", id="2^40"),
        pytest.param((101_000_000).to_bytes(8, "little") + b"{}", "101000000", id="101 MB"),
        pytest.param((50).to_bytes(8, "little") + b"{", "incomplete: 9 of at least 58", id="cut"),
        pytest.param((50).to_bytes(8, "little"), "incomplete: 8 of at least 58", id="bare length"),
        pytest.param((4).to_bytes(8, "little") + b"null", "does not begin with '{'", id="null"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "git lfs pull",
            id="lfs",
        ),
        pytest.param(b"<!DOCTYPE html><html></html>", "web page", id="html"),
        pytest.param(b"\n\n<html><body>404</body></html>", "web page", id="html later"),
        pytest.param(b"PK\x03\x04\0\0\0\0" + b"data.pkl" * 9, "pickle or zip", id="zip"),
        pytest.param(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle or zip", id="pickle"),
    ],
)
def test_what_is_no_safetensors_file_is_recognised(tmp_path, content, match):
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    refuses(file, match)


def test_a_renamed_torch_pickle_is_recognised(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    file = tmp_path / "m.safetensors"
    file.write_bytes(buffer.getvalue())
    refuses(file, "pickles run code")


def test_an_absurd_length_is_refused_at_once(tmp_path):
    began = time.monotonic()
    refuses(craft(tmp_path, {}, length=2**63), "at most 100000000")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        pytest.param(b'{"\xff": 1}', b"", "not UTF-8 at byte 10", id="not UTF-8"),
        pytest.param(b"", b"", "not valid JSON", id="no header"),
        pytest.param(b"", b"{}", "not valid JSON", id="no header, but data"),
        pytest.param(b'{"a": }', b"", "not valid JSON", id="not JSON"),
        pytest.param(b'{"a":' * 50_000, b"", "not valid JSON", id="deep"),
        pytest.param(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
            "has 'a' twice",
            id="duplicate name",
        ),
        pytest.param({"__metadata__": {"a": 1}}, b"", "must map texts to texts", id="metadata"),
        pytest.param({"__metadata__": []}, b"", "must map texts to texts", id="metadata list"),
        pytest.param({"a": 1}, b"", "tensor 'a': must have exactly", id="no object"),
        pytest.param({"a": {"dtype": "F32"}}, b"", "must have exactly", id="keys missing"),
        pytest.param({"a": entry(0, 4, dtype="F31")}, b"1234", "unknown dtype 'F31'", id="dtype"),
        pytest.param({"a": entry(0, 4) | {"dtype": []}}, b"1234", "unknown dtype", id="dtype []"),
        pytest.param({"a": entry(0, 4, shape=[-1])}, b"1234", "sizes >= 0", id="negative size"),
        pytest.param({"a": entry(0, 4, shape=[True])}, b"1234", "sizes >= 0", id="boolean size"),
        pytest.param({"a": entry(0, 4, shape="1")}, b"1234", "sizes >= 0", id="shape text"),
        pytest.param({"a": entry(0, 4, shape=[2**62, 8])}, b"1234", "elements", id="overflow"),
        pytest.param({"a": entry(0, 0, shape=[0, 2**62])}, b"", "elements", id="empty overflow"),
        pytest.param({"a": entry(-4, 0)}, b"", "two numbers >= 0", id="negative offset"),
        pytest.param(
            {"a": entry(0, 4) | {"data_offsets": [0]}}, b"1234", "two numbers", id="one offset"
        ),
        pytest.param(
            {"a": entry(0, 8)}, b"12345678", "span 8 bytes.*needs 4", id="offsets, shape"
        ),
        pytest.param({"a": entry(4, 0)}, b"1234", "span -4 bytes", id="reversed"),
        pytest.param(
            {"a": entry(0, 4), "b": entry(0, 4)}, b"1234", "'b' overlaps tensor 'a'", id="overlap"
        ),
        pytest.param(
            {"a": entry(0, 4), "b": entry(2, 6)}, b"123456", "'b' overlaps", id="half overlap"
        ),
        pytest.param(
            {"a": entry(0, 4), "b": entry(8, 12)}, b"x" * 12, "hole after tensor 'a'", id="hole"
        ),
        pytest.param({"a": entry(4, 8)}, b"x" * 8, "hole after the header", id="first hole"),
        pytest.param({"a": entry(10**9, 10**9 + 4)}, b"1234", "hole", id="out of file"),
        pytest.param(
            {"a": entry(0, 4)}, b"12345", "1 bytes follow the last tensor", id="trailing"
        ),
        pytest.param({}, b"1", "1 bytes follow", id="trailing after nothing"),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, header, data, match):
    refuses(craft(tmp_path, header, data), match)


def test_a_truncated_body_says_how_much_is_there(tmp_path):
    file = craft(tmp_path, {"a": entry(0, 400, shape=[100])}, b"x" * 400)
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    refuses(file, f"incomplete: {whole - 100} of {whole} bytes")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    refuses(tmp_path / "absent.safetensors", "cannot be read: No such file")
    refuses(tmp_path, "cannot be read: Is a directory")
