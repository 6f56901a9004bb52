"""Builds a teacher cache: whatever is there already is kept, whatever is missing is made."""

from __future__ import annotations

import functools
import io
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from filelock import FileLock, Timeout

from evomerge.checkpoints import named_errors, write_atomically
from evomerge.errors import OutputError
from evomerge.evaluation.passes.batches import token_batches
from evomerge.refinement.cache.shards import TEMPORARY, check_shard, write_shard
from evomerge.refinement.cache.teacher_cache import (
    INDEX,
    MANIFEST,
    Manifest,
    ShardEntry,
    TeacherCache,
    check_key,
    read_manifest,
)
from evomerge.refinement.predictions.kept import concatenate
from evomerge.refinement.teachers.teacher import Teacher
from evomerge.refinement.texts.sequences import check_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from evomerge.refinement.cache.key import CacheKey
    from evomerge.refinement.predictions.kept import Kept
    from evomerge.refinement.predictions.top_k import TopK
    from evomerge.refinement.texts.sequences import Sequence

    Progress = Callable[[int, int], None]

SHARD_ROWS = 32_768
"""A folder of rows is complete when it has so many; what is interrupted loses less than that."""

BATCH_TOKENS = 8192
"""Most tokens of a forward pass, padding included."""

LOCK = "lock"
PATIENCE_S = 1.0
"""Seconds between two tries to be the one who builds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The sequences whose rows are written to one folder.

    Attributes:
        name: Of the folder.
        first: The number of the example that it begins with.
        stop: The number of the one that the next begins with.
        sequences: Those of them that have anything to predict.
    """

    name: str
    first: int
    stop: int
    sequences: tuple[Sequence, ...]

    @property
    def rows(self) -> int:
        """How many tokens are to be predicted."""
        return sum(map(_rows, self.sequences))


def build(
    folder: Path,
    key: CacheKey,
    sequences: Iterable[Sequence],
    load: Callable[[], Any],
    progress: Progress = lambda *_: None,
    waiting: Callable[[], None] = lambda: None,
) -> TeacherCache:
    """Build a teacher cache, or go on with one that was interrupted.

    While another process builds it, this one waits.

    Args:
        folder: Where it is or shall be, as `key.folder` says.
        key: What it depends on, made of the same sequences.
        sequences: What the teacher is asked.
        load: Loads the teacher, a causal language model of transformers; not called if the cache
            is complete.
        progress: Called with the numbers of rows that are done, and of all.
        waiting: Called about once a second as long as another process builds it.

    Raises:
        OutputError: The folder holds something else, or cannot be written; DiskFullError if the
            disk is full.
        RunError: A folder of rows is damaged.
        EvaluationError: The teacher predicts NaN.
        CompatibilityError: The teacher does not know a token, or cannot read a sequence whole.
    """
    parts = _plan(sequences)

    @functools.cache
    def awake() -> Teacher:
        teacher = Teacher(load())
        # Before the first part, not after hours of them.
        check_window(teacher.model, (each for part in parts for each in part.sequences))
        return teacher

    done, total = 0, sum(part.rows for part in parts)
    with _locked(folder, waiting):
        manifest = _begin(folder, key, parts)
        for number, part in enumerate(parts):
            known = manifest.shards[number : number + 1]
            if not any(_is_there(folder, entry) for entry in known):
                count = _counting(progress, done, total)
                rows = _predict(awake(), part, key.kept, count)
                manifest = _commit(folder, manifest, number, _write(folder, part, rows))
            done += part.rows
            progress(done, total)
    return TeacherCache(folder, key)


def _plan(sequences: Iterable[Sequence]) -> list[Part]:
    parts: list[Part] = []
    members: list[Sequence] = []
    held = 0

    def close() -> None:
        first = parts[-1].stop if parts else 0
        stop, name = members[-1].index + 1, f"{len(parts):05}"
        parts.append(Part(name=name, first=first, stop=stop, sequences=tuple(members)))
        members.clear()

    for sequence in sorted(sequences, key=lambda each: each.index):
        members.append(sequence)
        held += _rows(sequence)
        if held >= SHARD_ROWS:
            close()
            held = 0
    if members:
        close()
    return parts


def _rows(sequence: Sequence) -> int:
    return int(sequence.supervised.sum())


@contextmanager
def _locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only one who builds; the kernel frees the lock when the process dies."""
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        while not lock.is_locked:
            with suppress(Timeout):
                lock.acquire(timeout=PATIENCE_S)
            if not lock.is_locked:
                waiting()
    try:
        _sweep(folder)
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Remove what a process left behind that died while it was writing."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _begin(folder: Path, key: CacheKey, parts: list[Part]) -> Manifest:
    """Read the manifest of what is there, or write the index and a manifest of nothing yet."""
    manifest = read_manifest(folder)
    if manifest is not None:
        check_key(folder, manifest, key)
        return manifest
    with named_errors(folder):
        others = sorted(each.name for each in folder.iterdir() if each.name not in {LOCK, INDEX})
        if others:
            raise OutputError(
                f"{folder}: holds {others[0]!r} and is no teacher cache; name a folder that is "
                "absent or empty"
            )
        index = _index(parts)
        write_atomically(folder / INDEX, index)
        manifest = Manifest(
            reference=key.reference,
            key=key.parts(),
            index=blake3(index).hexdigest(),
            shards=(),
            shard_count=len(parts),
        )
        write_atomically(folder / MANIFEST, manifest.content())
    return manifest


def _index(parts: list[Part]) -> bytes:
    counts = np.zeros((parts[-1].stop if parts else 0) + 1, dtype="<i8")
    for part in parts:
        for sequence in part.sequences:
            counts[sequence.index + 1] = _rows(sequence)
    stream = io.BytesIO()
    np.save(stream, counts.cumsum())
    return stream.getvalue()


def _is_there(folder: Path, entry: ShardEntry) -> bool:
    if not (folder / entry.name).exists():
        return False
    check_shard(folder / entry.name, entry.blake3)
    return True


def _counting(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda rows: progress(done + rows, total)


def _predict(teacher: Teacher, part: Part, kept: Kept, count: Callable[[int], None]) -> TopK:
    predicted: dict[int, TopK] = {}
    rows = 0
    # Batches are made within a part, so that an interruption does not change what is in one.
    for batch in token_batches(part.sequences, BATCH_TOKENS):
        found = teacher.predict(batch, kept)
        predicted |= zip((sequence.index for sequence in batch), found, strict=True)
        rows += sum(map(_rows, batch))
        count(rows)
    return concatenate([predicted[sequence.index] for sequence in part.sequences])


def _write(folder: Path, part: Part, rows: TopK) -> ShardEntry:
    with named_errors(folder):
        # A folder that the manifest does not name.
        shutil.rmtree(folder / part.name, ignore_errors=True)
        digests = write_shard(folder / part.name, rows)
    return ShardEntry(
        name=part.name, first=part.first, stop=part.stop, rows=part.rows, blake3=digests
    )


def _commit(folder: Path, manifest: Manifest, number: int, entry: ShardEntry) -> Manifest:
    before, after = manifest.shards[:number], manifest.shards[number + 1 :]
    manifest = replace(manifest, shards=(*before, entry, *after))
    with named_errors(folder):
        write_atomically(folder / MANIFEST, manifest.content())
    return manifest
