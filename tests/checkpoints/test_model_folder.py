"""A model folder is read only if it is whole, consistent, and needs no code."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import Checkpoint, ModelFolder
from evomerge.errors import ModelError

INDEX = "model.safetensors.index.json"


def refuses(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        ModelFolder(folder)
    assert "\n" not in str(caught.value)


def repoint(folder: Path, shard: str) -> None:
    """Make the index name `shard` for the first tensor."""
    index = json.loads((folder / INDEX).read_text())
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = shard
    (folder / INDEX).write_text(json.dumps(index))


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def test_every_tensor_is_read_as_it_is_stored(llama_folder):
    model: Checkpoint = ModelFolder(llama_folder)
    expected = load_file(llama_folder / "model.safetensors")
    assert list(model.headers) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(model.read(name), value)
        assert model.headers[name].shape == tuple(value.shape)


def test_shards_read_like_one_file(llama_folder, sharded_folder):
    whole, sharded = ModelFolder(llama_folder), ModelFolder(sharded_folder)
    assert len(shard_files(sharded_folder)) > 2
    assert list(whole.headers) == list(sharded.headers)
    assert all(torch.equal(whole.read(n), sharded.read(n)) for n in whole.headers)


def test_config_folder_and_reference_are_given(llama_folder):
    model = ModelFolder(llama_folder, reference="org/llama")
    assert model.config["model_type"] == "llama"
    assert model.folder == llama_folder
    assert model.reference == "org/llama"
    assert "org/llama" in repr(model)
    assert ModelFolder(llama_folder).reference == str(llama_folder)


def test_reading_copies_nothing(llama):
    name = "model.norm.weight"
    assert llama.read(name).data_ptr() == llama.read(name).data_ptr()


def test_writing_into_a_tensor_does_not_reach_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    ModelFolder(folder).read("model.norm.weight").zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_tensor_outlives_its_checkpoint(llama_folder):
    tensor = ModelFolder(llama_folder).read("model.norm.weight")
    expected = load_file(llama_folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(tensor, expected)


def test_threads_may_read_at_once(sharded_folder):
    model = ModelFolder(sharded_folder)
    results: list[Any] = []

    def read_all() -> None:
        results.append({name: model.read(name) for name in model.headers})

    threads = [threading.Thread(target=read_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(
        torch.equal(result[name], results[0][name]) for result in results for name in model.headers
    )


def test_tensors_that_are_not_aligned_are_read(tmp_path, save_folder):
    folder = save_folder(tmp_path, {"x": torch.zeros(1)})
    value = torch.tensor([1.5, -2.5])
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        }
    ).encode()
    content = len(header).to_bytes(8, "little") + header + b"\1\2\3" + value.numpy().tobytes()
    (folder / "model.safetensors").write_bytes(content)
    model = ModelFolder(folder)
    assert torch.equal(model.read("b"), value)
    assert model.read("a").tolist() == [1, 2, 3]


def test_empty_tensors_and_scalars_are_read(tmp_path, save_folder):
    tensors = {"empty": torch.zeros(0, 3, dtype=torch.bfloat16), "scalar": torch.tensor(7)}
    model = ModelFolder(save_folder(tmp_path, tensors))
    assert model.read("empty").shape == (0, 3)
    assert model.read("empty").dtype == torch.bfloat16
    assert model.read("scalar").item() == 7


def test_an_unknown_tensor_is_refused(llama):
    with pytest.raises(ModelError, match=r"has no tensor 'model\.nothing'"):
        llama.read("model.nothing")


def test_a_file_that_changed_after_opening_is_not_read(folder):
    model = ModelFolder(folder)
    model.read("model.norm.weight")
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ModelError, match="changed while in use"):
        model.read("model.norm.weight")
    file.unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        model.read("model.norm.weight")


def test_a_disk_that_cannot_map_is_reported(folder, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(19, "No such device")

    model = ModelFolder(folder)
    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(ModelError, match="cannot be mapped: No such device"):
        model.read("model.norm.weight")


def test_the_identity_is_stable_and_knows_each_file(folder, shards, edit_json):
    identity = ModelFolder(folder).identity()
    assert ModelFolder(folder).identity() == identity
    edit_json(folder / "config.json", rope_theta=7.0)
    other_config = ModelFolder(folder).identity()
    assert other_config != identity
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert ModelFolder(folder).identity() not in {identity, other_config}

    identity = ModelFolder(shards).identity()
    replacement = shards / "copy"
    shutil.copy2(shard_files(shards)[-1], replacement)
    replacement.replace(shard_files(shards)[-1])
    assert ModelFolder(shards).identity() != identity


def test_a_folder_without_weights_says_what_it_has(folder):
    (folder / "model.safetensors").unlink()
    refuses(folder, "has neither model.safetensors nor")
    (folder / "weights.safetensors").touch()
    refuses(folder, "has safetensors but neither")
    (folder / "adapter_config.json").write_text("{}")
    refuses(folder, "is an adapter, not a model; write it as BASE\\+ADAPTER")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refuses(folder, "pickle not accepted, convert to safetensors elsewhere")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b'{"architectures": []}', "names no architectures"),
        (b'{"architectures": "Llama"}', "names no architectures"),
        (b'{"auto_map": {"AutoModel": "x.Y"}}', "needs remote code .* not run"),
        (b'{"quantization_config": {"bits": 4}}', "is quantised"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_an_unusable_config_is_refused(folder, content, match):
    (folder / "config.json").write_bytes(content)
    refuses(folder, match)


def test_a_missing_or_unreadable_config_is_refused(folder):
    (folder / "config.json").unlink()
    refuses(folder, "config.json: no such file")
    (folder / "config.json").mkdir()
    refuses(folder, "config.json: cannot be read: Is a directory")


def test_a_config_of_absurd_size_is_not_read(folder):
    os.truncate(folder / "config.json", 300_000_000)
    refuses(folder, "300000000 bytes are too many")


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "x\n.safetensors",
    ],
)
def test_a_shard_path_that_leaves_the_folder_is_refused(shards, shard):
    repoint(shards, shard)
    refuses(shards, "leaves the model folder; only plain file names are allowed")


@pytest.mark.parametrize("shard", ["..", "", "pytorch_model.bin", 7, None])
def test_a_shard_that_is_no_safetensors_file_is_refused(shards, shard):
    repoint(shards, shard)
    refuses(shards, "is no .safetensors file")


def test_a_shard_that_links_out_of_the_folder_is_refused(shards, tmp_path):
    shard, secret = shard_files(shards)[0], tmp_path / "secret.safetensors"
    shard.rename(secret)
    shard.symlink_to(secret)
    refuses(shards, "leaves the model folder: it is a link to")


def test_a_link_in_a_circle_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    (folder / INDEX).write_text("{}")
    refuses(folder, "circle|cannot be read")


def test_links_into_the_blobs_of_the_hub_cache_are_followed(llama_folder, tmp_path):
    repository = tmp_path / "models--org--llama"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(llama_folder.iterdir()):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert ModelFolder(snapshot).read("model.norm.weight").shape == (32,)


def test_a_folder_may_itself_be_a_link(llama_folder, tmp_path):
    (tmp_path / "link").symlink_to(llama_folder)
    assert ModelFolder(tmp_path / "link").folder == tmp_path / "link"


def test_a_missing_shard_is_named(shards):
    lost = shard_files(shards)[1]
    lost.unlink()
    refuses(shards, f"{lost.name}: the shard is missing")


def test_a_tensor_that_its_shard_lacks_is_named(shards):
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.phantom.weight"] = shard_files(shards)[0].name
    (shards / INDEX).write_text(json.dumps(index))
    refuses(shards, "lacks tensor 'model.phantom.weight', which .* puts there")


def test_tensors_that_the_index_lacks_are_named(shards):
    file = shard_files(shards)[0]
    tensors = load_file(file) | {f"extra.{i}": torch.zeros(1) for i in range(5)}
    save_file(tensors, file)
    refuses(shards, "holds tensor 'extra.0', 'extra.1', 'extra.2' and 2 more")


def test_a_tensor_in_two_shards_is_refused(shards):
    first, second = shard_files(shards)[:2]
    name, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: value}, second)
    refuses(shards, f"{second.name}: holds tensor '{name}'")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_weight_map_is_refused(shards, content):
    (shards / INDEX).write_text(content)
    refuses(shards, "has no weight_map")


def test_whole_weights_beside_an_index_of_shards_are_refused(shards, llama_folder):
    shutil.copy(llama_folder / "model.safetensors", shards)
    refuses(shards, "has both model.safetensors and an index")


def test_an_index_may_name_the_single_file(folder):
    names = list(ModelFolder(folder).headers)
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / INDEX).write_text(json.dumps(index))
    assert list(ModelFolder(folder).headers) == names
