"""The nearest of many texts by edit distance, for many texts.

All pairs of two vocabularies would be 10^10. Those whose lengths differ by more than the least
distance found so far are left out, and texts that differ only in characters which no candidate
has are looked for once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Ints = NDArray[np.int64]

_MAX_PAIRS = 4_000_000
_FOREIGN = "\U0010ffff"  # not a character


def nearest(texts: Sequence[str], candidates: Sequence[str]) -> Ints:
    """For each text, which candidate has the least Levenshtein distance; the first of several.

    Returns:
        Positions in `candidates`, or -1 if there are none; shape `(len(texts),)`, int64.
    """
    known = set().union(*candidates)
    foreign = {ord(character): _FOREIGN for character in set().union(*texts) - known}
    folded = [text.translate(foreign) for text in texts]
    by_length: dict[int, list[str]] = defaultdict(list)
    for text in dict.fromkeys(folded):
        by_length[len(text)].append(text)
    buckets = _by_length(candidates)
    found: dict[str, int] = {}
    for length, group in by_length.items():
        positions = _nearest(group, length, buckets, candidates)
        found.update(zip(group, positions.tolist(), strict=True))
    return np.array([found[text] for text in folded], dtype=np.int64)


def _by_length(candidates: Sequence[str]) -> dict[int, Ints]:
    positions: dict[int, list[int]] = defaultdict(list)
    for position, text in enumerate(candidates):
        positions[len(text)].append(position)
    return {length: np.array(each) for length, each in positions.items()}


def _nearest(
    texts: list[str], length: int, buckets: Mapping[int, Ints], candidates: Sequence[str]
) -> Ints:
    """What `nearest` gives for texts of one length."""
    best = np.full(len(texts), np.iinfo(np.int64).max)
    found = np.full(len(texts), -1)
    for other in sorted(buckets, key=lambda each: abs(each - length)):
        # An equal distance may come from an earlier candidate.
        open_ = np.flatnonzero(best >= abs(other - length))
        bucket = buckets[other]
        words = [candidates[position] for position in bucket]
        for chunk in np.array_split(open_, 1 + len(open_) * len(bucket) // _MAX_PAIRS):
            if len(chunk):
                distance, column = _least([texts[row] for row in chunk], words)
                position = bucket[column]
                wins = (distance < best[chunk]) | (
                    (distance == best[chunk]) & (position < found[chunk])
                )
                best[chunk[wins]], found[chunk[wins]] = distance[wins], position[wins]
    return found


def _least(texts: list[str], candidates: list[str]) -> tuple[Ints, Ints]:
    """For each text the least distance, and the first candidate that has it."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    distances = cdist(texts, candidates, scorer=Levenshtein.distance, dtype=np.uint16, workers=-1)
    column = distances.argmin(axis=1)
    return distances[np.arange(len(texts)), column].astype(np.int64), column
