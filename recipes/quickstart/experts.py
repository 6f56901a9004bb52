"""The forms in which an expert is written: a checkpoint, a sharded checkpoint or an adapter."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from training import LowRank, TrainingPlan


def write_checkpoint(
    folder: Path, base: Path, updates: Mapping[str, LowRank], *, shards: int = 1
) -> None:
    """Writes the base model with the updates added, in the base model's dtypes.

    Args:
        folder: Where to write.
        base: The base model's folder; all but its weights is copied.
        updates: The updates by tensor name.
        shards: Into how many files of like size the tensors are divided.
    """
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with safe_open(base / "model.safetensors", "pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in sorted(weights.keys())}
    for name, update in updates.items():
        delta = update.scale * update.up.detach() @ update.down.detach()
        tensors[name] = (tensors[name].float() + delta).to(tensors[name].dtype)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        _write_shards(folder, tensors, shards)


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    total = sum(sizes.values())
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    before = 0
    for name, tensor in tensors.items():
        parts[shards * before // total][name] = tensor
        before += sizes[name]
    places = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def write_adapter(folder: Path, updates: Mapping[str, LowRank], plan: TrainingPlan) -> None:
    """Writes the updates alone, as a PEFT adapter of the base model next to it."""
    folder.mkdir()
    tensors = {}
    for name, update in updates.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = update.down.detach().to(torch.bfloat16).contiguous()
        tensors[f"{stem}.lora_B.weight"] = update.up.detach().to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": "base",
        "bias": "none",
        "inference_mode": True,
        "layers_pattern": "layers",
        "layers_to_transform": sorted({int(name.split(".")[2]) for name in updates}),
        "lora_alpha": plan.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": plan.rank,
        "target_modules": sorted({name.split(".")[-2] for name in updates}),
        "task_type": "CAUSAL_LM",
    }
    _write_json(folder / "adapter_config.json", config)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
