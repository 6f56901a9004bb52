"""A live model holds the same bytes as the exported checkpoint, and only stale tensors change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.checkpoints import CheckpointWriter
from evomerge.errors import MergeError, ModelError
from evomerge.live_model import named_weights
from evomerge.merging.export import export_checkpoint
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.operators import fuse
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

QUERY = "model.layers.1.self_attn.q_proj.weight"
RULES = [{"value": 0.2, "layers": [0, 1]}, {"value": 0.9, "component": "norm"}, {"value": 0.5}]

RECIPES = [
    MergeRecipe.model_validate({"base": "base"} | document)
    for document in (
        {
            "sources": ["one", "two", "three"],
            "operator": "linear",
            "parameters": {"weight": RULES},
        },
        {
            "sources": ["one", "base+lora"],
            "operator": "task_arithmetic",
            "parameters": {"weight": RULES},
        },
        {
            "sources": ["one", "two", "three"],
            "operator": "ties",
            "parameters": {"weight": RULES, "density": 0.4},
        },
        {
            "sources": ["one", "two"],
            "operator": "dare_ties",
            "parameters": {"weight": RULES, "density": 0.4},
            "seed": 4,
        },
        {"sources": ["one", "two"], "operator": "slerp", "parameters": {"t": RULES}},
        {
            "sources": ["one", "two"],
            "operator": "task_arithmetic",
            "parameters": {"weight": 0.3},
            "dtype": "float16",
        },
    )
]
every_recipe = pytest.mark.parametrize(
    "merge", RECIPES, ids=lambda merge: f"{merge.operator}-{merge.dtype}"
)


def _parameters(library: SourceLibrary, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Tensors like those of a live model, full of nonsense."""
    return {
        name: torch.full(shape, 7, dtype=dtype or stored)
        for name, (stored, shape) in library.signatures("base").items()
    }


def _assert_same(held: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    assert held.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(held[name], tensor.to(held[name].dtype)), name


@every_recipe
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_holds_what_the_exported_checkpoint_holds(
    merge: MergeRecipe,
    dtype: torch.dtype,
    library: SourceLibrary,
    read_all: Callable[[Path], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    export_checkpoint(merge, library, tmp_path / "out")
    held = _parameters(library, dtype)
    ResidentWeights(held, library).merge(merge)
    _assert_same(held, read_all(tmp_path / "out"))


@every_recipe
@pytest.mark.parametrize("max_shard_bytes", [1, 5_000, 20_000])
def test_the_size_of_a_shard_does_not_matter(
    merge: MergeRecipe,
    max_shard_bytes: int,
    library: SourceLibrary,
    read_all: Callable[[Path], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    export_checkpoint(merge, library, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    held = _parameters(library)
    ResidentWeights(held, library).merge(merge)
    _assert_same(held, read_all(tmp_path / "out"))


@every_recipe
@pytest.mark.parametrize(("count", "block"), [(1, 1 << 17), (4, 1 << 17), (2, 13), (1, 1000)])
def test_the_number_of_threads_and_the_size_of_a_block_do_not_matter(
    merge: MergeRecipe,
    count: int,
    block: int,
    library: SourceLibrary,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = _parameters(library), _parameters(library)
    ResidentWeights(first, library).merge(merge)
    threads(count)
    monkeypatch.setattr(fuse, "BLOCK", block)
    ResidentWeights(second, library).merge(merge)
    _assert_same(first, second)


def test_tensors_that_hold_the_merge_already_are_not_written_again(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    held = _parameters(library)
    resident = ResidentWeights(held, library)
    assert resident.merge(recipe("one")) == len(held)
    held[QUERY].fill_(7)
    assert resident.merge(recipe("one")) == 0
    assert (held[QUERY] == 7).all()


def test_only_the_tensors_of_a_changed_layer_are_written(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    held = _parameters(library)
    resident = ResidentWeights(held, library)

    def with_last_layer(weight: float) -> MergeRecipe:
        rules = [{"value": weight, "layers": [1, 2]}, {"value": 0.5}]
        return recipe("one", operator="task_arithmetic", parameters={"weight": rules})

    resident.merge(with_last_layer(0.1))
    in_last_layer = [name for name in held if ".layers.1." in name]
    assert resident.merge(with_last_layer(0.2)) == len(in_last_layer)
    fresh = _parameters(library)
    ResidentWeights(fresh, library).merge(with_last_layer(0.2))
    _assert_same(held, fresh)


def test_the_merge_after_any_other_is_right(library: SourceLibrary) -> None:
    held = _parameters(library)
    resident = ResidentWeights(held, library)
    for merge in (*RECIPES, *reversed(RECIPES)):
        resident.merge(merge)
        fresh = _parameters(library)
        ResidentWeights(fresh, library).merge(merge)
        _assert_same(held, fresh)


def test_the_merge_after_a_failure_is_right(
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Small blocks, and a few entries that overflow: the tensor is half written when it fails.
    monkeypatch.setattr(fuse, "BLOCK", 16)
    held = _parameters(library)
    resident = ResidentWeights(held, library)
    good = recipe("one", operator="task_arithmetic", parameters={"weight": 0.5})
    resident.merge(good)
    before = {name: tensor.clone() for name, tensor in held.items()}
    rules = [{"value": 1e20, "tensor": "layers.1."}, {"value": 0.7}]
    bad = recipe("one", operator="task_arithmetic", parameters={"weight": rules, "scale": 2e19})
    with pytest.raises(MergeError, match=r"tensor model\.layers\.1\.\S+: .* overflowed bfloat16"):
        resident.merge(bad)
    assert not all(torch.equal(held[name], before[name]) for name in held if ".layers.1." in name)
    resident.merge(good)
    _assert_same(held, before)


def test_tensors_that_are_not_contiguous_are_filled_too(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    held, straight = _parameters(library), _parameters(library)
    held[QUERY] = torch.full((32, 32), 7, dtype=torch.bfloat16).T
    for parameters in (held, straight):
        ResidentWeights(parameters, library).merge(recipe("one", "two"))
    _assert_same(held, straight)


def test_stored_tensors_that_the_live_model_does_not_use_are_not_merged(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    held = _parameters(library)
    del held[QUERY]
    assert ResidentWeights(held, library).merge(recipe("one")) == len(held)


def test_a_tensor_of_another_shape_in_the_live_model_is_explained(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    held = _parameters(library)
    held[QUERY] = torch.zeros(32, 64)
    with pytest.raises(ModelError, match=r"the loaded model has shape \(32, 64\)"):
        ResidentWeights(held, library).merge(recipe("one"))


def test_a_tensor_that_a_source_lacks_is_explained(
    family: Path,
    tmp_path: Path,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], dict[str, Tensor]],
) -> None:
    tensors = read_all(family / "one")
    del tensors[QUERY]
    signatures = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with CheckpointWriter(tmp_path / "lacking", signatures) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.add_file("config.json", (family / "one" / "config.json").read_bytes())
    library = SourceLibrary(family)
    merge = recipe(str(tmp_path / "lacking"))
    with pytest.raises(ModelError, match=rf"lacking: has no tensor '{QUERY}'"):
        ResidentWeights(_parameters(library), library).merge(merge)


def test_a_head_tied_to_the_embedding_follows_it(
    family: Path, library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(family / "base")
    weights = named_weights(model, library.signatures("base"))
    assert weights.keys() == library.signatures("base").keys()
    ResidentWeights(weights, library).merge(recipe("one"))
    assert torch.equal(
        model.lm_head.weight, library.model("one").read("model.embed_tokens.weight")
    )
