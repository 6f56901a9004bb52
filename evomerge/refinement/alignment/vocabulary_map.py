"""From the tokens of a teacher to those of the student: the same text, or the nearest one.

FuseLLM: Wan et al. 2024, "Knowledge Fusion of Large Language Models",
https://arxiv.org/abs/2401.10491: exact match (EM) and minimal edit distance (MinED). Tokens are
compared as the texts that they stand for, so that signs for word boundaries are spaces in all.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch

from evomerge.cache import cache_folder
from evomerge.checkpoints import named_errors, write_atomically
from evomerge.refinement.alignment.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from evomerge.refinement.alignment.vocabulary import Vocabulary

SCHEMA = 1
"""Of maps on disk; to be raised with any change of how they are made or stored."""

UNMATCHED = -1
"""In place of an id: the student has no such token."""


def exact_map(teacher: Vocabulary, student: Vocabulary) -> Tensor:
    """Map tokens to those that stand for the same bytes (EM).

    Where several do, the one that is written alike is taken, or else that with the lowest id that
    is no byte standing in for a character.

    Returns:
        The student's id for each id of the teacher, or `UNMATCHED`; shape `(len(teacher),)`,
        int64. The map of a vocabulary to itself is the identity, but for ids without a token.
    """
    alike = {pair: number for number, pair in enumerate(_pairs(student))}
    first: dict[bytes | None, int] = {}
    # A character's own token before the fallback to its byte, which is written at greater length.
    for number, (token, spelling) in sorted(
        enumerate(_pairs(student)), key=lambda each: (_is_fallback(*each[1]), each[0])
    ):
        if token is not None:
            first.setdefault(spelling, number)
    return torch.tensor(
        [
            UNMATCHED if pair[0] is None else alike.get(pair, first.get(pair[1], UNMATCHED))
            for pair in _pairs(teacher)
        ],
        dtype=torch.int64,
    )


def with_pairs(to_student: Tensor, pairs: Mapping[int, int]) -> Tensor:
    """Return a map in which further tokens of the teacher have a partner.

    Tokens that end an answer mean the same, however they are written; mapped by hand, a teacher
    says too when an answer is over.

    Args:
        to_student: A map, shape `(teacher vocabulary,)`.
        pairs: The student's id for ids of the teacher.
    """
    changed = to_student.clone()
    changed[list(pairs)] = torch.tensor(list(pairs.values()), dtype=torch.int64)
    return changed


def min_edit_map(teacher: Vocabulary, student: Vocabulary) -> Tensor:
    """Map tokens to the same text or else to the one with the least edit distance (MinED).

    The lowest of several ids wins. Every token gets a partner, however unlike it is: one in
    another script maps to any token that is not longer. The map is kept on disk, by the digests
    of both vocabularies.

    Returns:
        The student's id for each id of the teacher, or `UNMATCHED` for ids without a token; shape
        `(len(teacher),)`, int64.

    Raises:
        OutputError: The cache cannot be written.
    """
    name = f"{SCHEMA}-{teacher.digest()}-{student.digest()}.npy"
    file = cache_folder("vocabulary-maps") / name
    found = _read(file, len(teacher), len(student))
    if found is None:
        found = _min_edit_map(teacher, student)
        _write(file, found)
    return found


def _min_edit_map(teacher: Vocabulary, student: Vocabulary) -> Tensor:
    found = exact_map(teacher, student)
    theirs = dict(enumerate(teacher.texts()))
    missing = [n for n, text in theirs.items() if text is not None and found[n] == UNMATCHED]
    ours = {n: text for n, text in enumerate(student.texts()) if text is not None}
    ids = torch.tensor([*ours, UNMATCHED])
    chosen = nearest([theirs[number] or "" for number in missing], [*ours.values()])
    found[missing] = ids[torch.from_numpy(chosen)]
    return found


def _pairs(vocabulary: Vocabulary) -> zip[tuple[str | None, bytes | None]]:
    return zip(vocabulary.tokens, vocabulary.spellings, strict=True)


def _is_fallback(token: str | None, spelling: bytes | None) -> bool:
    return token is not None and spelling is not None and len(token) > len(spelling) == 1


def _read(file: Path, size: int, targets: int) -> Tensor | None:
    """A map that was stored; `None` if there is none, or it cannot be one of these tokens."""
    try:
        stored = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if stored.dtype != np.int32 or stored.shape != (size,):
        return None
    if size and not (stored.min() >= UNMATCHED and stored.max() < targets):
        return None
    return torch.from_numpy(stored.astype(np.int64))


def _write(file: Path, ids: Tensor) -> None:
    content = io.BytesIO()
    np.save(content, ids.numpy().astype(np.int32), allow_pickle=False)
    with named_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())
