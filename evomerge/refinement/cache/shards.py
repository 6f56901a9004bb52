"""Rows on disk: a folder of plain arrays that is there whole or not at all.

Of every row `lengths.npy` (uint16) holds the number of its tokens; `tail.npy` (float16),
`nll.npy` and, where they are known, `mean.npy` and `deviation.npy` (float32) the rest. The tokens
of all rows are in `ids.npy` (uint16, or uint32 for a vocabulary over 65,536) and `log_probs.npy`
(float16), one row behind the other: rows of drawn tokens differ much in length. Log-probabilities
lie between about -20 and 0, where float16 has steps of at most 1/64.
"""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3

from evomerge.checkpoints.durability import sync_folder, write_durably
from evomerge.errors import OutputError, RunError
from evomerge.refinement.predictions.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

TEMPORARY = ".tmp-"
"""What files begin with that are not finished."""

MOST_TOKENS = (1 << 16) - 1
"""Tokens of a row at most, by the integers that count them."""


def bytes_per_row(k: int, vocabulary: int) -> int:
    """Bytes that a row of the k likeliest tokens takes on disk."""
    length, tail, nll, mean, deviation = 2, 2, 4, 4, 4
    return k * (id_dtype(vocabulary).itemsize + 2) + length + tail + nll + mean + deviation


def id_dtype(vocabulary: int) -> np.dtype[Any]:
    """The smallest integers that tokens fit in."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def write_shard(folder: Path, rows: TopK) -> dict[str, str]:
    """Write rows to a new folder; when this returns, they are on disk.

    Returns:
        A digest of every file, by its name.

    Raises:
        OutputError: A row has more tokens than can be counted.
    """
    is_token = rows.log_probs > -torch.inf
    lengths = is_token.sum(dim=1).numpy()
    if (longest := lengths.max(initial=0)) > MOST_TOKENS:
        raise OutputError(
            f"{folder}: a row has {longest} tokens, allowed: at most {MOST_TOKENS}; lower cache.k"
        )
    arrays: dict[str, NDArray[Any]] = {
        "lengths.npy": lengths.astype("<u2"),
        "ids.npy": rows.ids[is_token].numpy().astype(id_dtype(rows.vocabulary)),
        "log_probs.npy": rows.log_probs[is_token].numpy().astype("<f2"),
        "tail.npy": rows.tail.numpy().astype("<f2"),
        "nll.npy": rows.nll.numpy().astype("<f4"),
    }
    for name, known in (("mean.npy", rows.mean), ("deviation.npy", rows.deviation)):
        if known is not None:
            arrays[name] = known.numpy().astype("<f4")
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    digests = {}
    for name, array in arrays.items():
        stream = io.BytesIO()
        np.save(stream, array)
        write_durably(temporary / name, stream.getvalue())
        digests[name] = blake3(stream.getvalue()).hexdigest()
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)
    return digests


def check_shard(folder: Path, digests: Mapping[str, str]) -> None:
    """Check that a shard's files are as they were written.

    Raises:
        RunError: One is not.
    """
    for name, digest in digests.items():
        file = folder / name
        try:
            found = blake3().update_mmap(file).hexdigest()
        except OSError as error:
            wrong = f"cannot be read: {error.strerror}"
        else:
            if found == digest:
                continue
            wrong = "is damaged, it is not what was written"
        raise RunError(f"{file}: {wrong}; delete the folder {folder} to have it made again")


class Shard:
    """Rows that are read from disk when they are asked for.

    Args:
        folder: Where they were written.
        digests: What `write_shard` returned.
        vocabulary: The number of tokens that the teacher knows.

    Raises:
        RunError: A file is missing or damaged.
    """

    def __init__(self, folder: Path, digests: Mapping[str, str], vocabulary: int) -> None:
        check_shard(folder, digests)
        arrays = {
            name.removesuffix(".npy"): np.load(folder / name, mmap_mode="r") for name in digests
        }
        self._lengths = arrays.pop("lengths")
        self._ids, self._log_probs = arrays.pop("ids"), arrays.pop("log_probs")
        self._of_rows = arrays
        self._ends = np.concatenate([[0], self._lengths.cumsum(dtype=np.int64)])
        self._vocabulary = vocabulary

    def rows(self, start: int, stop: int) -> TopK:
        """Some of the rows."""
        lengths = torch.from_numpy(self._lengths[start:stop].astype(np.int64))
        tokens = slice(self._ends[start], self._ends[stop])
        width = int(lengths.max()) if len(lengths) else 0
        is_token = torch.arange(width) < lengths[:, None]
        ids = torch.zeros(is_token.shape, dtype=torch.long)
        ids[is_token] = torch.from_numpy(self._ids[tokens].astype(np.int64))
        log_probs = torch.full(is_token.shape, -torch.inf)
        log_probs[is_token] = torch.from_numpy(self._log_probs[tokens].astype(np.float32))
        others = {
            name: torch.from_numpy(array[start:stop].astype(np.float32))
            for name, array in self._of_rows.items()
        }
        return TopK(ids=ids, log_probs=log_probs, vocabulary=self._vocabulary, **others)
