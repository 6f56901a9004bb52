"""Streams a merged model to a checkpoint folder, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoints import CheckpointWriter
from evomerge.merging.config import as_json, config_file
from evomerge.merging.engine import merge_tensor
from evomerge.merging.memory import Room, keep_freed_blocks
from evomerge.merging.vocabulary.alignment import align, result_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.operands import Operands
    from evomerge.merging.plan import TensorJob
    from evomerge.merging.sources import SourceLibrary
    from evomerge.merging.vocabulary.plan import VocabularyPlan
    from evomerge.recipe.merge import MergeRecipe

SHARD_BYTES = 5_000_000_000

RELEASE_BYTES = 100_000_000
"""After reading about so much, the pages of the models are given back."""


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
        ModelError: A model cannot be read, or `out` cannot be written.
    """
    alignment = align(recipe, library.model) if recipe.tokenizer else None
    own_files = result_files(recipe, library.model, alignment)
    config = config_file(recipe, library)
    if alignment is not None:
        config = as_json(alignment.config(json.loads(config)))
        library = library.with_models(alignment.models)
    operands = library.operands(recipe)
    plan = operands.plan
    tensors = {job.name: (job.dtype, job.shape) for job in plan.jobs}
    with CheckpointWriter(out, tensors, max_shard_bytes=max_shard_bytes) as writer:
        unreleased = 0
        for job, merged in merged_ahead(operands):
            writer.write(job.name, merged)
            unreleased += merged.nbytes * (1 + len(job.source_tensors))
            if unreleased > RELEASE_BYTES:
                library.release()
                unreleased = 0
        for name, content in {"config.json": config, **own_files, **(files or {})}.items():
            writer.add_file(name, content)
    return alignment.plan if alignment else None


def merged_ahead(operands: Operands) -> Iterator[tuple[TensorJob, Tensor]]:
    """Merge the tensors of a plan, in order, some of them ahead of whoever takes them.

    Tensors that are merged entry by entry are merged at the same time, one thread each: that
    keeps more cores busy than many threads for each do, and takes little memory. Others, which
    hold all their sources in memory, are merged one after the other. A merged tensor is valid
    until the next one is asked for.
    """
    keep_freed_blocks()
    threads = torch.get_num_threads()
    plan = operands.plan
    apart = plan.operator.elementwise and plan.recipe.mergekit_compat is None
    workers, each = (threads, 1) if apart else (1, threads)
    room = Room(plan.jobs)
    waiting: deque[tuple[TensorJob, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(workers, "evomerge", torch.set_num_threads, (each,)) as pool:
        try:
            for job in plan.jobs:
                out = room.take(job)
                waiting.append((job, pool.submit(_merge, operands, job, out)))
                if len(waiting) > workers:
                    yield from _next(waiting, room)
            while waiting:
                yield from _next(waiting, room)
        finally:
            pool.shutdown(cancel_futures=True)
            # What threads set holds for those that are started later.
            torch.set_num_threads(threads)


def _merge(operands: Operands, job: TensorJob, out: Tensor) -> Tensor:
    merge_tensor(operands, job, out)
    return out


def _next(
    waiting: deque[tuple[TensorJob, Future[Tensor]]], room: Room
) -> Iterator[tuple[TensorJob, Tensor]]:
    job, future = waiting.popleft()
    merged = future.result()
    yield job, merged
    room.give_back(merged)
