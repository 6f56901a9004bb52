"""Real models of every common architecture: what is exported and what is held is the merge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_architectures import CAUSAL, OTHERS, build, save

from evomerge.errors import ModelError
from evomerge.live_model import named_weights
from evomerge.merging.export import export_checkpoint
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.randomness import generator
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Architecture = tuple[str, str, dict[str, Any]]
RECIPE = MergeRecipe.model_validate(
    {
        "base": "base",
        "sources": [
            {"model": "one", "parameters": {"weight": 0.5}},
            {"model": "two", "parameters": {"weight": -0.25}},
        ],
        "operator": "task_arithmetic",
    }
)

OTHER_LAYOUT = ("GPTNeoX", "Mixtral", "Qwen2Moe", "Qwen3Moe", "GraniteMoe", "Olmoe")
"""Architectures that transformers stores under other names or shapes than it runs."""


def _save_family(architecture: Architecture, root: Path) -> dict[str, Tensor]:
    """Write a base and two noisy siblings; return the parameters of their merge."""
    model = build(*architecture)
    base = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    merged = {name: tensor.clone() for name, tensor in base.items()}
    save(model, root / "base")
    for sibling, weight in (("one", 0.5), ("two", -0.25)):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator(0, name, sibling)) * 0.1
                parameter.copy_(base[name] + noise)
                merged[name] += weight * noise
        save(model, root / sibling)
    return merged


def _load(architecture: Architecture, folder: Path) -> Any:
    transformers.logging.disable_progress_bar()
    return getattr(transformers, architecture[0]).from_pretrained(folder)


@pytest.mark.parametrize(
    "architecture", [*CAUSAL.values(), *OTHERS.values()], ids=[*CAUSAL, *OTHERS]
)
def test_transformers_loads_the_merge_from_the_exported_checkpoint(
    architecture: Architecture, tmp_path: Path
) -> None:
    expected = _save_family(architecture, tmp_path)
    export_checkpoint(RECIPE, SourceLibrary(tmp_path), tmp_path / "out")
    loaded = dict(_load(architecture, tmp_path / "out").named_parameters())
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name].detach(), tensor)


def _assert_live_model_follows(architecture: Architecture, root: Path) -> None:
    """Merge into a live base and compare with what transformers loads of the export."""
    library = SourceLibrary(root)
    export_checkpoint(RECIPE, library, root / "out")
    live = _load(architecture, root / "base").requires_grad_(requires_grad=False)
    weights, repeated = named_weights(live)
    ResidentWeights(weights, library, repeated).merge(RECIPE)
    held = dict(live.named_parameters())
    for name, tensor in _load(architecture, root / "out").named_parameters():
        assert torch.equal(held[name], tensor), name


@pytest.mark.parametrize("name", [name for name in CAUSAL if name not in OTHER_LAYOUT])
def test_a_live_model_holds_what_is_exported(name: str, tmp_path: Path) -> None:
    _save_family(CAUSAL[name], tmp_path)
    _assert_live_model_follows(CAUSAL[name], tmp_path)


@pytest.mark.parametrize("name", OTHER_LAYOUT)
def test_a_live_model_that_runs_another_layout_than_is_stored_is_explained(
    name: str, tmp_path: Path
) -> None:
    _save_family(CAUSAL[name], tmp_path)
    with pytest.raises(ModelError, match=r"^tensor \S+ of shape .*: .* another layout [^\n]*$"):
        _assert_live_model_follows(CAUSAL[name], tmp_path)


def test_a_tied_head_that_is_stored_beside_the_embedding_follows_it(tmp_path: Path) -> None:
    architecture = CAUSAL["Llama tied"]
    _save_family(architecture, tmp_path)
    for folder in ("base", "one", "two"):
        file = tmp_path / folder / "model.safetensors"
        tensors = load_file(file)
        copy = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        save_file(tensors | copy, file, metadata={"format": "pt"})
    _assert_live_model_follows(architecture, tmp_path)
