"""Streams a merged model to a checkpoint folder, one tensor in memory at a time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints import CheckpointWriter, tokenizer_files
from evomerge.merging.config import config_file
from evomerge.merging.engine import merge_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

SHARD_BYTES = 5_000_000_000

RELEASE_BYTES = 200_000_000
"""After reading about so much, the pages of the models are given back."""


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
    with (
        CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes) as writer,
        ThreadPoolExecutor(1, "evomerge-write") as background,
    ):
        written: Future[None] | None = None
        unreleased = 0
        for job in plan.jobs:
            merged = torch.empty(job.shape, dtype=job.dtype)
            merge_tensor(operands, job, merged)
            if written is not None:
                written.result()
            written = background.submit(writer.write, job.name, merged)
            unreleased += merged.nbytes * (1 + len(job.source_tensors))
            if unreleased > RELEASE_BYTES:
                library.release()
                unreleased = 0
        if written is not None:
            written.result()
        writer.add_file("config.json", config_file(recipe, library))
        for file in tokenizer_files(donor.folder):
            writer.add_file(file.name, file.read_bytes())
        for name, content in (files or {}).items():
            writer.add_file(name, content)
