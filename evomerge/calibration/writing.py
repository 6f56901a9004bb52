"""Writes a calibrated model: the same files as a merge has, with other weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints import CheckpointWriter
from evomerge.errors import MergeError
from evomerge.merging.config import config_file
from evomerge.merging.export import SHARD_BYTES
from evomerge.merging.vocabulary.alignment import result_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.plan import TensorJob
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe


def write_model(
    recipe: MergeRecipe,
    jobs: Mapping[str, TensorJob],
    library: SourceLibrary,
    out: Path,
    order: Sequence[str],
    tensors: Iterable[tuple[str, Tensor]],
    files: Mapping[str, bytes],
) -> None:
    """Write a model whose tensors come in any order.

    Args:
        recipe: Says which config and tokenizer the model has.
        jobs: The jobs of its plan, which say what tensors are stored in.
        library: Has config and tokenizer.
        out: The folder; must not exist or be empty.
        order: The names of all tensors, as they will come.
        tensors: The tensors, in the dtype of the recipe.
        files: Further files to put beside the weights, by name.

    Raises:
        MergeError: A tensor is not finite.
        OutputError: `out` cannot be written; DiskFullError if the disk is full.
    """
    specs = {name: (jobs[name].dtype, jobs[name].shape) for name in order}
    own_files = result_files(recipe, library.model)
    with CheckpointWriter(out, specs, max_shard_bytes=SHARD_BYTES) as writer:
        for name, tensor in tensors:
            if not torch.isfinite(tensor).all():
                raise MergeError(f"tensor {name}: the result has NaN or infinite entries")
            writer.write(name, tensor)
        config = config_file(recipe, library)
        for name, content in {"config.json": config, **own_files, **files}.items():
            writer.add_file(name, content)
