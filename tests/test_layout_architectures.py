"""Places told from names are those of the module tree, in every common architecture."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tiny_architectures import CAUSAL, MULTIMODAL, OTHERS, build, save
from torch import nn

from evomerge.checkpoints import open_checkpoint
from evomerge.layout import Component, Place, layer_count, locate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

every_text_model = pytest.mark.parametrize(
    "architecture", [*CAUSAL.values(), *OTHERS.values()], ids=[*CAUSAL, *OTHERS]
)
every_model = pytest.mark.parametrize(
    "architecture",
    [*CAUSAL.values(), *OTHERS.values(), *MULTIMODAL.values()],
    ids=[*CAUSAL, *OTHERS, *(f"{name} multimodal" for name in MULTIMODAL)],
)


def _place_in_tree(model: nn.Module, name: str) -> Place:
    """A parameter's place, told from the modules that own it and not from their names."""
    owners = list(_owners(model, name))
    lists = (at for at, (_, owner) in enumerate(owners) if isinstance(owner, nn.ModuleList))
    at = next(lists, None)
    owner = owners[-1][1]
    kinds = {type(owner).__name__ for _, owner in owners[(at or 0) + 1 :]}
    if isinstance(owner, nn.LayerNorm) or "Norm" in type(owner).__name__:
        component = Component.NORM
    elif at is None:
        is_embedding = isinstance(owner, nn.Embedding)
        component = Component.EMBEDDING if is_embedding else Component.HEAD
    else:
        is_attention = any("Attention" in kind for kind in kinds)
        component = Component.ATTENTION if is_attention else Component.MLP
    return Place(None if at is None else int(owners[at + 1][0]), component)


def _owners(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around a parameter and what each is called in the one around it."""
    module = model
    yield "", module
    for part in name.split(".")[:-1]:
        module = module.get_submodule(part)
        yield part, module


def _stored(model: Any, folder: Path) -> dict[str, tuple[int, ...]]:
    save(model, folder)
    headers = open_checkpoint(str(folder), root=folder).headers
    return {name: header.shape for name, header in headers.items()}


@every_text_model
def test_live_parameters_are_where_the_module_tree_has_them(
    architecture: tuple[str, str, dict[str, Any]],
) -> None:
    model = build(*architecture)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert {name: locate(name) for name in names} == {
        name: _place_in_tree(model, name) for name in names
    }


@every_text_model
def test_stored_tensors_are_where_the_module_tree_has_their_entries(
    architecture: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    # A checkpoint may split or rename what a live model holds, but moves nothing between places.
    model = build(*architecture)
    live: Counter[Place] = Counter()
    for name, parameter in model.named_parameters():
        live[_place_in_tree(model, name)] += parameter.numel()
    stored: Counter[Place] = Counter()
    for name, shape in _stored(model, tmp_path).items():
        stored[locate(name)] += _size(shape)
    assert stored == live


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@every_model
def test_both_layers_are_counted_and_nothing_else(
    architecture: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    model = build(*architecture)
    assert layer_count(_stored(model, tmp_path)) == 2
    assert layer_count(name for name, _ in model.named_parameters()) == 2


def test_the_longer_of_two_stacks_is_counted() -> None:
    model, config, values = OTHERS["T5"]
    lopsided = build(model, config, values | {"num_decoder_layers": 3})
    assert layer_count(lopsided.state_dict()) == 3


@pytest.mark.parametrize("architecture", MULTIMODAL.values(), ids=MULTIMODAL)
def test_only_the_language_model_has_layers_and_components(
    architecture: tuple[str, str, dict[str, Any]], tmp_path: Path
) -> None:
    model = build(*architecture)
    text = {id(parameter) for parameter in _language_parameters(model)}
    others = [name for name, tensor in model.named_parameters() if id(tensor) not in text]
    assert others
    assert {locate(name) for name in others} == {Place(None, Component.OTHER)}
    for name, tensor in model.named_parameters():
        if id(tensor) in text:
            assert locate(name) == _place_in_tree(model, name), name
    stored = [locate(name) for name in _stored(model, tmp_path)]
    assert stored.count(Place(None, Component.OTHER)) == len(others)


def _language_parameters(model: Any) -> Iterator[Tensor]:
    yield from model.get_decoder().parameters()
    yield from model.get_input_embeddings().parameters()
    yield from model.get_output_embeddings().parameters()
