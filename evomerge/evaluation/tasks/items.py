"""Draws search, confirm and held-out items, once per run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from evomerge.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.outcome import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskItems:
    """The items of one task, as positions in the task's documents, in a fixed random order.

    Attributes:
        task: The task's name.
        search: Items that decide the search.
        confirm: Items that, with those of the search, decide which finalist wins.
        held_out: Items that only the final comparison sees.
    """

    task: str
    search: tuple[int, ...]
    held_out: tuple[int, ...]
    confirm: tuple[int, ...] = ()

    def of(self, split: Split) -> tuple[int, ...]:
        """The items that a candidate is scored on in a split."""
        if split == "held_out":
            return self.held_out
        return self.search if split == "search" else self.search + self.confirm


def draw_items(
    task: str,
    documents: Sequence[str],
    *,
    search: int,
    held_out: int,
    seed: int,
    confirm: int = 0,
) -> TaskItems:
    """Draw disjoint search, confirm and held-out items.

    Args:
        task: The task's name; also part of the seed.
        documents: A content digest of each document; only the first of equal ones is used, so
            that no document is on two sides.
        search: Number of search items.
        held_out: Number of held-out items.
        seed: Seeds the draw.
        confirm: Number of confirm items.

    Raises:
        TaskError: There are too few different documents.
    """
    first_seen: dict[str, int] = {}
    for position, content in enumerate(documents):
        first_seen.setdefault(content, position)
    wanted = {"search": search, "confirm": confirm, "held-out": held_out}
    if len(first_seen) < sum(wanted.values()):
        asked = ", ".join(f"{count} {split}" for split, count in wanted.items() if count)
        raise TaskError(
            f"task {task}: has {len(first_seen)} different items, but {asked} items are asked "
            "for; lower evaluation.items"
        )
    key = int.from_bytes(blake3(f"{seed}\0{task}".encode()).digest(length=8), "little")
    order = np.random.default_rng(key).permutation(np.array(list(first_seen.values())))
    drawn = tuple(int(position) for position in order[: sum(wanted.values())])
    seen = search + confirm
    return TaskItems(
        task=task, search=drawn[:search], confirm=drawn[search:seen], held_out=drawn[seen:]
    )
