"""An exported checkpoint is complete, loads as a model, and never needs two tensors at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.checkpoints import tokenizer_files
from evomerge.errors import MergeError, OutputError
from evomerge.live_model import load_model, named_weights
from evomerge.merging.export import export_checkpoint
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe


def test_config_is_the_base_s_to_the_last_byte(
    family: Path, library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    export_checkpoint(recipe("one", "two"), library, tmp_path / "out")
    written = (tmp_path / "out" / "config.json").read_bytes()
    assert written == (family / "base" / "config.json").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_dtype_of_its_own_is_stored_and_written_to_the_config(
    dtype: str,
    family: Path,
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    export_checkpoint(recipe("one", "two", dtype=dtype), library, tmp_path / "out")
    assert {t.dtype for t in read_all(tmp_path / "out").values()} == {getattr(torch, dtype)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    base = json.loads((family / "base" / "config.json").read_text())
    assert config == base | {"dtype": dtype}


def test_the_older_word_for_dtype_does_not_survive_in_the_config(
    family: Path, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    base = tmp_path / "older"
    base.mkdir()
    for file in (family / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (base / "config.json").write_text(json.dumps(config))
    export_checkpoint(
        recipe("one", base=str(base), dtype="float32"), SourceLibrary(family), tmp_path / "out"
    )
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["dtype"] == "float32"
    assert "torch_dtype" not in written


def test_tokenizer_files_are_the_base_s_to_the_last_byte(
    family: Path, library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    export_checkpoint(recipe("one", "two"), library, tmp_path / "out")
    names = [file.name for file in tokenizer_files(family / "base")]
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (family / "base" / name).read_bytes()


def test_further_files_lie_beside_the_weights(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    files = {"evomerge.yaml": b"base: base\n"}
    export_checkpoint(recipe("one"), library, tmp_path / "out", files=files)
    assert (tmp_path / "out" / "evomerge.yaml").read_bytes() == b"base: base\n"


def test_an_adapter_as_base_gives_the_files_of_the_model_below_it(
    family: Path, library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    export_checkpoint(recipe("one", base="base+lora"), library, tmp_path / "out")
    written = (tmp_path / "out" / "config.json").read_bytes()
    assert written == (family / "base" / "config.json").read_bytes()


def test_linear_of_one_source_writes_exactly_that_source(
    family: Path,
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], dict[str, Tensor]],
    same_bits: Callable[[Tensor, Tensor], bool],
    tmp_path: Path,
) -> None:
    export_checkpoint(recipe("two"), library, tmp_path / "out")
    merged, source = read_all(tmp_path / "out"), read_all(family / "two")
    assert merged.keys() == source.keys()
    assert all(same_bits(merged[name], source[name]) for name in source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"operator": "task_arithmetic", "parameters": {"weight": 0.4}},
        {"operator": "ties", "parameters": {"weight": 0.4, "density": 0.5}},
        {"operator": "linear", "dtype": "float32"},
    ],
    ids=lambda fields: fields["operator"],
)
@pytest.mark.parametrize("max_shard_bytes", [20_000, 1_000_000])
def test_transformers_loads_it_and_gets_the_logits_of_the_resident_model(
    fields: dict[str, Any],
    max_shard_bytes: int,
    family: Path,
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    tmp_path: Path,
) -> None:
    merge, out = recipe("one", "base+lora", **fields), tmp_path / "out"
    export_checkpoint(merge, library, out, max_shard_bytes=max_shard_bytes)
    skeleton, _ = load_model(family / "base", torch.float32, torch.device("cpu"))
    ResidentWeights(named_weights(skeleton, library.signatures("base")), library).merge(merge)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(out)("the red cat", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(loaded(**tokens).logits, skeleton(**tokens).logits)


def test_a_merge_that_fails_leaves_nothing_behind(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    bad = recipe("one", parameters={"weight": 0})
    with pytest.raises(MergeError, match="cannot normalize"):
        export_checkpoint(bad, library, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match=str(tmp_path)):
        export_checkpoint(recipe("one"), library, tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"
