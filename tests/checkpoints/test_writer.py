"""A written model folder is whole and durable, or it is not there."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from evomerge.checkpoints import CheckpointWriter, ModelFolder, read_headers, tokenizer_files
from evomerge.checkpoints.headers import DTYPES
from evomerge.errors import EvomergeError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = b'{"architectures": ["LlamaForCausalLM"]}'
TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "c": torch.tensor(2.5, dtype=torch.bfloat16),
}


def declare(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write(out: Path, tensors: dict[str, torch.Tensor], *, max_shard_bytes: int = 10**9) -> None:
    with CheckpointWriter(out, declare(tensors), max_shard_bytes=max_shard_bytes) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.add_file("config.json", CONFIG)


def to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


@contextmanager
def refuses(match: str) -> Iterator[None]:
    with pytest.raises(EvomergeError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6, unique=True))
    tensors = {}
    for name in names:
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        count = torch.Size(shape).numel()
        content = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        if dtype == torch.bool:
            content = bytes(byte & 1 for byte in content)
        flat = torch.tensor(list(content), dtype=torch.uint8)
        tensors[name] = flat.view(dtype).reshape(shape)
    return tensors


@settings(max_examples=60, deadline=None)
@given(tensors=tensor_sets(), max_shard_bytes=st.integers(1, 200))
def test_what_is_written_is_read_back_by_us_and_by_safetensors(
    tmp_path_factory, tensors, max_shard_bytes
):
    out = tmp_path_factory.mktemp("round") / "trip"
    write(out, tensors, max_shard_bytes=max_shard_bytes)
    model = ModelFolder(out)
    assert list(model.headers) == sorted(tensors)
    theirs = {}
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            assert shard.metadata() == {"format": "pt"}
            theirs |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        for found in (model.read(name), theirs[name]):
            assert found.dtype == tensor.dtype
            assert found.shape == tensor.shape
            assert to_bytes(found) == to_bytes(tensor)


def test_one_shard_is_called_model_and_has_no_index(tmp_path):
    write(tmp_path / "out", TENSORS)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json",
        "evomerge-complete.json",
        "model.safetensors",
    ]
    marker = json.loads((tmp_path / "out" / "evomerge-complete.json").read_text())
    assert marker == {"version": 1, "tensors": 3, "bytes": 29}


def test_shards_are_numbered_and_indexed(tmp_path):
    out = tmp_path / "out"
    write(out, TENSORS, max_shard_bytes=24)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(file.name for file in out.glob("*.safetensors")) == shards
    assert json.loads((out / "model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 29},
        "weight_map": {"a": shards[1], "b": shards[0], "c": shards[1]},
    }


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    write(tmp_path / "out", TENSORS, max_shard_bytes=1)
    assert len(list((tmp_path / "out").glob("model-*-of-00003.safetensors"))) == 3


def test_every_tensor_is_aligned_to_its_width(tmp_path):
    write(tmp_path / "out", {"x": torch.zeros(3, dtype=torch.uint8), "y": torch.zeros(2)})
    headers = read_headers(tmp_path / "out" / "model.safetensors")
    assert all(header.start % header.dtype.itemsize == 0 for header in headers.values())


def test_the_same_tensors_give_the_same_file(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, TENSORS)
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert first == second


def test_views_and_transposed_tensors_are_written_by_value(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"transposed": whole.T, "column": whole[:, 1], "row": whole[1]}
    write(tmp_path / "out", tensors)
    model = ModelFolder(tmp_path / "out")
    assert all(torch.equal(model.read(name), tensor) for name, tensor in tensors.items())


def test_a_tensor_that_needs_gradients_is_written(tmp_path):
    write(tmp_path / "out", {"x": torch.ones(2, requires_grad=True)})
    assert ModelFolder(tmp_path / "out").read("x").tolist() == [1, 1]


def test_transformers_loads_what_is_written(llama, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "deep" / "out"
    declared = {name: (h.dtype, h.shape) for name, h in llama.headers.items()}
    with CheckpointWriter(out, declared, max_shard_bytes=30_000) as writer:
        for name in declared:
            writer.write(name, llama.read(name))
        for file in (llama.folder / "config.json", *tokenizer_files(llama.folder)):
            writer.add_file(file.name, file.read_bytes())
    ours = AutoModelForCausalLM.from_pretrained(out, use_safetensors=True).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(llama.folder).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert AutoTokenizer.from_pretrained(out)("hello world").input_ids == [1, 2]


def test_an_empty_folder_may_be_the_target(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", TENSORS)
    assert ModelFolder(tmp_path / "out").headers


def test_a_target_that_is_taken_is_refused_and_kept(tmp_path):
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_text("mine")
    full.mkdir()
    (full / "mine").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for out in (file, full, tmp_path / "link"):
        with refuses("is there already; name a folder that is absent or empty"):
            write(out, TENSORS)
    with refuses("cannot be written: .*file is not a folder"):
        write(file / "out", TENSORS)
    assert file.read_text() == "mine"
    assert (full / "mine").exists()


def test_an_unusable_target_is_reported(tmp_path, monkeypatch):
    def fail(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    with refuses("cannot be written: File name too long"):
        write(tmp_path / ("x" * 250), TENSORS)
    monkeypatch.setattr(Path, "exists", fail)
    with refuses("cannot be written: Permission denied"):
        write(tmp_path / "out", TENSORS)


def test_a_disk_that_is_too_full_is_noticed_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1_000_000))
    with refuses("the disk is too full: needs 4.0 MB, has 1.0 MB"):
        CheckpointWriter(tmp_path / "deep" / "out", {"x": (torch.float32, (1000, 1000))})
    assert is_empty(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "limit", "match"),
    [
        ({}, 1, "at least one tensor"),
        (TENSORS, 0, "max_shard_bytes: 0 is below 1"),
        ({"__metadata__": torch.zeros(1)}, 1, "safetensors reserves it"),
        ({"x": torch.zeros(1, dtype=torch.complex128)}, 1, "cannot store torch.complex128"),
    ],
)
def test_what_cannot_be_stored_is_refused_before(tmp_path, tensors, limit, match):
    with refuses(match):
        write(tmp_path / "out", tensors, max_shard_bytes=limit)
    assert is_empty(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("a", TENSORS["a"], "'b' is to be written next, not 'a'"),
        ("unknown", TENSORS["a"], "'b' is to be written next, not 'unknown'"),
        ("b", TENSORS["b"].double(), r"'b' is torch.float64 \(2, 3\), declared as torch.float32"),
        (
            "b",
            TENSORS["b"].T,
            r"'b' is torch.float32 \(3, 2\), declared as torch.float32 \(2, 3\)",
        ),
    ],
)
def test_a_tensor_that_was_not_declared_so_is_refused(tmp_path, name, tensor, match):
    with refuses(match), CheckpointWriter(tmp_path / "out", declare(TENSORS)) as writer:
        writer.write(name, tensor)
    assert is_empty(tmp_path)


def test_a_tensor_too_many_is_refused(tmp_path):
    with (
        refuses("None is to be written next, not 'b'"),
        CheckpointWriter(tmp_path / "out", declare(TENSORS)) as writer,
    ):
        for name, tensor in [*TENSORS.items(), ("b", TENSORS["b"])]:
            writer.write(name, tensor)
    assert is_empty(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "", "a/b", "model.safetensors", "evomerge-complete.json"]
)
def test_an_added_file_must_have_a_free_plain_name(tmp_path, name):
    with (
        refuses("is not a name for an added file"),
        CheckpointWriter(tmp_path / "out", declare(TENSORS)) as writer,
    ):
        writer.add_file(name, b"")
    assert is_empty(tmp_path)


def test_a_file_cannot_be_added_twice(tmp_path):
    with (
        refuses("cannot be written: File exists"),
        CheckpointWriter(tmp_path / "out", declare(TENSORS)) as writer,
    ):
        writer.add_file("config.json", CONFIG)
        writer.add_file("config.json", CONFIG)
    assert is_empty(tmp_path)


def test_an_unfinished_checkpoint_is_not_left_behind(tmp_path):
    with (
        refuses("not finished: 'a' was never written"),
        CheckpointWriter(tmp_path / "out", declare(TENSORS)) as writer,
    ):
        writer.write("b", TENSORS["b"])
    assert is_empty(tmp_path)
