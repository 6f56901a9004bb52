"""Streams a merged model to a checkpoint folder, one tensor in memory at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints import Checkpoint, CheckpointWriter, tokenizer_files
from evomerge.merging.engine import merge_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

SHARD_BYTES = 5_000_000_000


def export_checkpoint(
    recipe: MergeRecipe,
    library: SourceLibrary,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the merged model that a recipe describes.

    The folder is complete or absent. Config comes from the base model, tokenizer files are copied
    from it byte for byte.

    Args:
        recipe: The recipe.
        library: Opens the models.
        out: The folder; must not exist or be empty.
        files: Further files to put beside the weights, by name.
        max_shard_bytes: Largest size of one weight file.

    Raises:
        MergeError: A tensor cannot be merged or is not finite.
        ModelError: A model cannot be read, or `out` cannot be written.
    """
    operands = library.operands(recipe)
    plan = operands.plan
    donor = library.model(recipe.base)
    tensors = {job.name: (job.dtype, job.shape) for job in plan.jobs}
    with CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes) as writer:
        for job in plan.jobs:
            merged = torch.empty(job.shape, dtype=job.dtype)
            merge_tensor(operands, job, merged)
            writer.write(job.name, merged)
            del merged  # before the next one is made
        writer.add_file("config.json", _config(donor, recipe))
        for file in tokenizer_files(donor.folder):
            writer.add_file(file.name, file.read_bytes())
        for name, content in (files or {}).items():
            writer.add_file(name, content)


def _config(donor: Checkpoint, recipe: MergeRecipe) -> bytes:
    if recipe.dtype == "base":
        return (donor.folder / "config.json").read_bytes()
    config = {key: value for key, value in donor.config.items() if key != "torch_dtype"}
    return json.dumps(config | {"dtype": recipe.dtype}, indent=2).encode() + b"\n"
