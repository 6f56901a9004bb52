"""Draws search and held-out items, once per run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from evomerge.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskItems:
    """The items of one task, as positions in the task's documents, in a fixed random order.

    Attributes:
        task: The task's name.
        search: Items that decide the search.
        held_out: Items that only the final comparison sees.
    """

    task: str
    search: tuple[int, ...]
    held_out: tuple[int, ...]


def draw_items(
    task: str, documents: Sequence[str], *, search: int, held_out: int, seed: int
) -> TaskItems:
    """Draw disjoint search and held-out items.

    Args:
        task: The task's name; also part of the seed.
        documents: A content digest of each document; only the first of equal ones is used, so
            that no document is on both sides.
        search: Number of search items.
        held_out: Number of held-out items.
        seed: Seeds the draw.

    Raises:
        TaskError: There are too few different documents.
    """
    first_seen: dict[str, int] = {}
    for position, content in enumerate(documents):
        first_seen.setdefault(content, position)
    if len(first_seen) < search + held_out:
        raise TaskError(
            f"task {task}: has {len(first_seen)} different items, but {search} search and "
            f"{held_out} held-out items are asked for; lower evaluation.items"
        )
    key = int.from_bytes(blake3(f"{seed}\0{task}".encode()).digest(length=8), "little")
    order = np.random.default_rng(key).permutation(np.array(list(first_seen.values())))
    drawn = tuple(int(position) for position in order[: search + held_out])
    return TaskItems(task=task, search=drawn[:search], held_out=drawn[search:])
