"""A low-rank update of some layers of a live model, written as a PEFT adapter.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685. The result is a task vector: a search can
scale it, mix it with others, or leave it out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evomerge.errors import ModelError
from evomerge.layout import Component, locate
from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ALL = "default"
"""What PEFT calls an update that is not given a name."""


def attach(model: Any, *, rank: int, alpha: int, layers: Collection[int], seed: int) -> None:
    """Give the linear maps of some layers a trainable update, which is zero at first.

    Args:
        model: A causal language model of transformers; all else in it is frozen.
        rank: Rank of each update.
        alpha: The update is multiplied by `alpha / rank`.
        layers: Indices of the layers.
        seed: Seeds the update's one half; the other is zero.

    Raises:
        ModelError: These layers have no linear maps.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _layer(name) in layers
    ]
    if not targets:
        raise ModelError(
            f"layers {sorted(layers)} of {type(model).__name__} have no linear maps to update; "
            "write train.what: full"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)
    model.requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_A" in name:
            # As PEFT draws it, yet the same whatever was drawn before.
            bound = parameter.shape[1] ** -0.5
            rng = generator(seed, "low rank", name)
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=rng)
            parameter.data.copy_(drawn)
        if parameter.requires_grad:
            # Steps are smaller than what is left over when a sum is rounded to bfloat16.
            parameter.data = parameter.data.float()


def adapter_files(model: Any, *, rank: int, alpha: int, base: str) -> tuple[bytes, bytes]:
    """The update of a model as the two files of a PEFT adapter.

    Args:
        model: A model that `attach` was called on.
        rank: As it was called with.
        alpha: As it was called with.
        base: The model that the adapter says it belongs to.

    Returns:
        adapter_model.safetensors and adapter_config.json.
    """
    from safetensors.torch import save

    tensors = {
        f"base_model.model.{name.replace(f'.{ALL}', '')}": each.detach().cpu().float().contiguous()
        for name, each in trainable(model).items()
    }
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors}
    layers = {_layer(name) for name in tensors}
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "inference_mode": True,
        "layers_to_transform": sorted(layer for layer in layers if layer is not None),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
    }
    return save(tensors, {"format": "pt"}), (json.dumps(config, indent=2) + "\n").encode()


def trainable(model: nn.Module) -> Mapping[str, Tensor]:
    """The parameters of a model that are trained, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _layer(name: str) -> int | None:
    """The layer that a module belongs to."""
    place = locate(f"{name}.weight")
    return None if place.component is Component.HEAD else place.layer
