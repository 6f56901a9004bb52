"""The tensors of a PEFT LoRA adapter: pairs of `lora_A` and `lora_B`, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.checkpoints._adapter_settings import MERGE_WITH_PEFT
from evomerge.checkpoints._confinement import confined
from evomerge.checkpoints._mapped_file import MappedFile
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.checkpoints.headers import TensorHeader

PREFIX = "base_model.model."


def open_tensors(adapter: Path) -> MappedFile:
    """Open the weights of an adapter folder."""
    file = confined(adapter, "adapter_model.safetensors")
    if file.exists():
        return MappedFile(file)
    found = "only a pickle; pickle not accepted, save the adapter again as safetensors"
    lacking = "no adapter_model.safetensors; fetch it"
    has_pickle = (adapter / "adapter_model.bin").exists()
    raise ModelError(f"{adapter}: has {found if has_pickle else lacking}.")


def split_tensors(file: MappedFile) -> tuple[list[str], dict[str, TensorHeader]]:
    """Tell the tensors of an adapter apart.

    Returns:
        The modules that have both halves of an update, and the tensors that are saved whole, by
        the name they have in the base: PEFT does so for vocabulary layers.
    """
    halves: dict[str, set[str]] = {}
    whole = {}
    for name, header in sorted(file.headers.items()):
        module, _, half = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or "lora_embedding" in name or "lora_magnitude" in name:
            raise ModelError(f"{file.file}: {_explain_tensor(name)}")
        if half in {"A.weight", "B.weight"}:
            halves.setdefault(module, set()).add(half)
        else:
            whole[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = header
    if not halves:
        raise ModelError(f"{file.file}: updates no linear layer.")
    for module, found in halves.items():
        if len(found) == 1:
            raise ModelError(f"{file.file}: {module!r} has only lora_{found.pop()}.")
    return list(halves), whole


def _explain_tensor(name: str) -> str:
    if "lora_embedding" in name:
        what = "updates an embedding"
    elif "lora_magnitude" in name:
        what = "belongs to DoRA"
    else:
        what = "is none of a PEFT adapter"
    return f"tensor {name!r} {what}; {MERGE_WITH_PEFT}."
