"""What a teacher predicts, kept on disk: the teacher runs once, many students learn from it.

A cache is a folder with `manifest.json`, `index.npy`, where the rows of each example begin, and
folders of rows (`shards.py`). It only ever grows; whatever is interrupted goes on where it was and
ends in the same bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from evomerge.errors import OutputError, RunError
from evomerge.refinement.cache.key import SCHEMA
from evomerge.refinement.cache.shards import Shard

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.refinement.cache.key import CacheKey
    from evomerge.refinement.predictions.top_k import TopK

MANIFEST, INDEX = "manifest.json", "index.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """A folder of rows that is complete.

    Attributes:
        name: Its name.
        first: The number of the example that it begins with.
        stop: The number of the one that the next begins with.
        rows: How many rows it has.
        blake3: A digest of every file, by its name.
    """

    name: str
    first: int
    stop: int
    rows: int
    blake3: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a cache holds, and what for.

    Attributes:
        reference: How the user named the teacher.
        key: The parts of the cache's key.
        index: A digest of the index.
        shards: Complete folders of rows, in order.
        shard_count: How many there will be.
    """

    reference: str
    key: dict[str, Any]
    index: str
    shards: tuple[ShardEntry, ...]
    shard_count: int

    def content(self) -> bytes:
        """What is in the file."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a cache; `None` if there is none.

    Raises:
        RunError: It cannot be read.
    """
    file = folder / MANIFEST
    try:
        document = json.loads(file.read_bytes())
        if document.pop("schema") != SCHEMA:
            raise RunError(
                f"{file}: was written by another version of evomerge; name another folder for the "
                "teacher cache, or delete this one"
            )
        entries = tuple(ShardEntry(**entry) for entry in document.pop("shards"))
        return Manifest(shards=entries, **document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file}: is no manifest of a teacher cache; name another folder, or delete this one"
        ) from error


def check_key(folder: Path, manifest: Manifest, key: CacheKey) -> None:
    """Check that a cache is the wanted one.

    Raises:
        OutputError: It is not; the message names the parts of the key that differ.
    """
    if differences := key.differences(manifest.key):
        raise OutputError(
            f"{folder}: is a cache of something else, it has {' and '.join(differences)}; name "
            "another folder for the teacher cache, or delete this one"
        )


class TeacherCache:
    """Predictions of a teacher, read from disk when they are asked for.

    Every folder of rows is checked against its digests when it is read for the first time.

    Args:
        folder: The cache, which must be complete.
        key: What is wanted of it.

    Raises:
        RunError: There is no cache, or it is not complete.
        OutputError: It is a cache of something else.
    """

    def __init__(self, folder: Path, key: CacheKey) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise RunError(f"{folder}: holds no teacher cache; build it first")
        check_key(folder, manifest, key)
        if len(manifest.shards) < manifest.shard_count:
            raise RunError(
                f"{folder}: the teacher cache is not complete, {len(manifest.shards)} of "
                f"{manifest.shard_count} parts are there; build it to the end"
            )
        self._vocabulary = key.kept.vocabulary
        self._folder = folder
        self._entries = manifest.shards
        self._begins = [entry.first for entry in self._entries]
        self._open: dict[int, Shard] = {}
        self._offsets = _read_index(folder, manifest.index)

    def rows(self, index: int) -> TopK:
        """What the teacher predicts of an example: a row for each of its supervised tokens.

        Args:
            index: The number of the example, as in `Sequence.index`; one that has nothing to
                predict has no rows.

        Raises:
            RunError: The part of the cache that holds it is missing or damaged.
        """
        number = int(np.searchsorted(self._begins, index, side="right")) - 1
        if number not in self._open:
            entry = self._entries[number]
            folder = self._folder / entry.name
            self._open[number] = Shard(folder, entry.blake3, self._vocabulary)
        before = self._offsets[self._begins[number]]
        # The index ends with the last example that has rows.
        end = len(self._offsets) - 1
        start, stop = (self._offsets[min(at, end)] for at in (index, index + 1))
        return self._open[number].rows(start - before, stop - before)


def _read_index(folder: Path, digest: str) -> list[int]:
    """Where the rows of every example begin, and after the last one where they end."""
    file = folder / INDEX
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    if blake3(content).hexdigest() != digest:
        raise RunError(f"{file}: is damaged; delete {folder} to have the teacher cache made again")
    offsets: list[int] = np.load(io.BytesIO(content)).tolist()
    return offsets
