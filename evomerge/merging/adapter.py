"""Merge LoRA adapters of one base into one adapter, without the base's weights.

What is written is an adapter like those it was made from, of a higher rank: whatever loads them
loads it, PEFT and `BASE+ADAPTER` included.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from evomerge.checkpoints import check_output_folder, read_headers, write_output_file
from evomerge.errors import MergeError, ModelError
from evomerge.merging.core_space import merge_in_core_space

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from evomerge.checkpoints import AdaptedModel
    from evomerge.merging.core_space import LowRank

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

Pairs = dict[str, tuple["Tensor", "Tensor"]]
"""B and A of a merged update by the module's name."""


def export_adapter(
    adapted: Sequence[AdaptedModel],
    out: Path,
    *,
    weights: Sequence[float],
    operator: str = "task_arithmetic",
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Merge adapters in core space and write the result as an adapter for PEFT.

    All modules get the rank of the one that needs most, filled up with zeros. The configuration
    is written last: a folder that has one is complete.

    Args:
        adapted: M models that are adapted from the same base.
        out: The adapter's folder; must not exist or be empty.
        weights: The operator's `weight`, length M.
        operator: An operator that works in core space, see `merge_in_core_space`.
        arguments: Its other parameters; defaults if absent.

    Raises:
        MergeError: The operator does not work in core space, or the result is not finite.
        ModelError: The bases differ.
        OutputError: `out` is taken or cannot be written.
    """
    bases = {each.base.identity(): each.base.reference for each in adapted}
    if len(bases) > 1:
        raise ModelError(
            f"adapters of different bases cannot be merged: {', '.join(bases.values())}"
        )
    check_output_folder(out)
    modules = {module for each in adapted for module in _modules(each)}
    merged: Pairs = {}
    for name, factors in _updates(adapted):
        try:
            pair = merge_in_core_space(factors, weights, operator, arguments or {})
        except MergeError as error:
            raise MergeError(f"tensor {name}: {error}") from None
        if not all(factor.isfinite().all() for factor in pair):
            raise MergeError(f"tensor {name}: the result has NaN or infinite entries")
        merged[_module(name, modules)] = pair
    rank = max(b.shape[1] for b, _ in merged.values())
    write_output_file(out / WEIGHTS, _weights(merged, rank))
    write_output_file(out / CONFIG, _config(adapted[0], sorted(merged), rank))


def _updates(adapted: Sequence[AdaptedModel]) -> Iterator[tuple[str, list[LowRank]]]:
    """The updates of each tensor that is updated at all, zeros for models that leave it alone."""
    for name in adapted[0].headers:
        updates = [each.low_rank(name) for each in adapted]
        known = next((update for update in updates if update is not None), None)
        if known is not None:
            b, a, _ = known
            nothing = (b[:, :1] * 0, a[:1] * 0, 0.0)
            yield name, [update or nothing for update in updates]


def _modules(adapted: AdaptedModel) -> Iterator[str]:
    """The names of the modules that an adapter updates."""
    for key in read_headers(adapted.adapter / WEIGHTS):
        module, found, _ = key.removeprefix(PREFIX).partition(".lora_A.")
        if found:
            yield module


def _module(name: str, modules: set[str]) -> str:
    """The module of a tensor: of adapters and bases, only one may name the decoder in front."""
    stem = name.removesuffix(".weight")
    return next(
        module
        for module in sorted(modules)
        if f".{module}".endswith(f".{stem}") or stem.endswith(f".{module}")
    )


def _weights(merged: Pairs, rank: int) -> bytes:
    from safetensors.torch import save

    tensors = {}
    for module, (b, a) in sorted(merged.items()):
        missing = rank - b.shape[1]
        key = f"{PREFIX}{module}"
        tensors[f"{key}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, missing))
        tensors[f"{key}.lora_B.weight"] = torch.nn.functional.pad(b, (0, missing))
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def _config(model: AdaptedModel, modules: list[str], rank: int) -> bytes:
    original = json.loads((model.adapter / CONFIG).read_bytes())
    settings = {
        "peft_type": "LORA",
        "task_type": original.get("task_type"),
        "base_model_name_or_path": model.declared_base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # divided by the rank: the scalings are in the factors
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(original.get("fan_in_fan_out")),
        "target_modules": modules,
    }
    return json.dumps(settings, indent=2).encode() + b"\n"
