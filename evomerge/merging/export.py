"""Streams a merged model to a checkpoint folder, one tensor in memory at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from evomerge.checkpoints import CheckpointWriter
from evomerge.merging.config import as_json, config_file
from evomerge.merging.vocabulary.alignment import align, result_files
from evomerge.merging.workers import merged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evomerge.merging.sources import SourceLibrary
    from evomerge.merging.vocabulary.plan import VocabularyPlan
    from evomerge.recipe.merge import MergeRecipe

SHARD_BYTES = 5_000_000_000


def export_checkpoint(
    recipe: MergeRecipe,
    library: SourceLibrary,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> VocabularyPlan | None:
    """Write the merged model that a recipe describes.

    The folder is complete or absent. Config and tokenizer come from the base model, byte for byte
    unless the recipe asks for something else.

    Args:
        recipe: The recipe.
        library: Opens the models.
        out: The folder; must not exist or be empty.
        files: Further files to put beside the weights, by name.
        max_shard_bytes: Largest size of one weight file.

    Returns:
        The vocabulary of the merged model, if the recipe asks for one.

    Raises:
        MergeError: A tensor cannot be merged or is not finite.
        ModelError: A model cannot be read.
        OutputError: `out` is taken or cannot be written; DiskFullError if the disk is full.
    """
    alignment = align(recipe, library.model) if recipe.tokenizer else None
    own_files = result_files(recipe, library.model, alignment)
    config = config_file(recipe, library)
    if alignment is not None:
        config = as_json(alignment.config(json.loads(config)))
        library = library.with_models(alignment.models)
    operands = library.operands(recipe)
    tensors = {job.name: (job.dtype, job.shape) for job in operands.plan.jobs}
    with CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes) as writer:
        for job, tensor in merged(operands, library.release):
            writer.write(job.name, tensor)
        for name, content in {"config.json": config, **own_files, **(files or {})}.items():
            writer.add_file(name, content)
    return alignment.plan if alignment else None
