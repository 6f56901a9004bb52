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
    ResidentWeights(named_weights(live, library.signatures("base")), library).merge(RECIPE)
    held = dict(live.named_parameters())
    for name, tensor in _load(architecture, root / "out").named_parameters():
        assert torch.equal(held[name], tensor), name


@pytest.mark.parametrize(
    "architecture", [*CAUSAL.values(), *OTHERS.values()], ids=[*CAUSAL, *OTHERS]
)
def test_a_live_model_holds_what_is_exported(architecture: Architecture, tmp_path: Path) -> None:
    _save_family(architecture, tmp_path)
    _assert_live_model_follows(architecture, tmp_path)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("stored", [(EMBEDDING,), (HEAD,), (EMBEDDING, HEAD)], ids=str)
def test_a_tied_head_is_merged_whatever_name_it_is_stored_under(
    stored: tuple[str, ...], tmp_path: Path
) -> None:
    architecture = CAUSAL["Llama tied"]
    _save_family(architecture, tmp_path)
    for folder in ("base", "one", "two"):
        file = tmp_path / folder / "model.safetensors"
        tensors = load_file(file)
        matrix = tensors.pop(EMBEDDING)
        tensors |= {name: matrix.clone() for name in stored}
        save_file(tensors, file, metadata={"format": "pt"})
    _assert_live_model_follows(architecture, tmp_path)


def test_a_causal_model_is_merged_from_checkpoints_of_its_decoder(tmp_path: Path) -> None:
    _, config, values = CAUSAL["GPT2"]
    _save_family(("GPT2Model", config, values), tmp_path)
    assert "wte.weight" in SourceLibrary(tmp_path).signatures("base")
    _assert_live_model_follows(CAUSAL["GPT2"], tmp_path)


def test_stored_tensors_that_the_model_does_not_use_are_left_alone(tmp_path: Path) -> None:
    architecture = CAUSAL["Llama"]
    _save_family(architecture, tmp_path)
    for folder in ("base", "one", "two"):
        file = tmp_path / folder / "model.safetensors"
        unused = {"model.layers.2.self_attn.q_proj.weight": torch.ones(2)}
        save_file(load_file(file) | unused, file, metadata={"format": "pt"})
    _assert_live_model_follows(architecture, tmp_path)


def test_a_parameter_that_no_stored_tensor_makes_is_explained() -> None:
    model = build(*CAUSAL["Llama"])
    stored = set(model.state_dict()) - {HEAD}
    with pytest.raises(ModelError, match=f"parameter {HEAD} of the loaded model: the checkpoint"):
        named_weights(model, stored)
