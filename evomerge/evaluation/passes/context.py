"""Lays the continuations of one context out in one row, so that the context is read once.

A row holds the context and behind it one branch per continuation. A branch sees the context and
itself, and its positions go on from the context's end, as if it were alone. What is computed is
the same up to the last bits of a float.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.passes.tokens import Continuation, Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextRow:
    """A context and what is read of its continuations.

    Attributes:
        context: Tokens that all continuations follow.
        branches: Tokens read of each continuation: all but its last one.
        wanted: Index of each branch's continuation in the list that the rows were made from.
    """

    context: Tokens
    branches: tuple[Tokens, ...]
    wanted: tuple[int, ...]

    @property
    def tokens(self) -> Tokens:
        """The whole row."""
        return self.context + tuple(token for branch in self.branches for token in branch)

    def __len__(self) -> int:
        return len(self.context) + sum(map(len, self.branches))

    def behind(self, length: int) -> ContextRow:
        """The row without the first tokens of its context."""
        return replace(self, context=self.context[length:])

    def predicting(self) -> list[list[int]]:
        """For each branch, the places in the row whose logits predict its continuation."""
        places, start = [], len(self.context)
        for branch in self.branches:
            places.append([len(self.context) - 1, *range(start, start + len(branch))])
            start += len(branch)
        return places


def rows_of(wanted: Sequence[Continuation], *, share: bool, most: int) -> list[ContextRow]:
    """Make rows of continuations.

    Args:
        wanted: The continuations.
        share: Whether continuations of the same context may share a row.
        most: Greatest length of a row that is shared.
    """
    members: dict[tuple[Tokens, int], list[int]] = defaultdict(list)
    for index, continuation in enumerate(wanted):
        read = len(continuation.target) - 1
        context = continuation.inputs[: len(continuation.inputs) - read]
        # One token needs no branch of its own: it is predicted from the context's end.
        members[context, 0 if share or not read else index + 1].append(index)
    rows = []
    for (context, _), indices in members.items():
        branches = {index: wanted[index].target[:-1] for index in indices}
        for part in _split(indices, branches, most - len(context)):
            row = tuple(branches[index] for index in part)
            rows.append(ContextRow(context=context, branches=row, wanted=tuple(part)))
    return rows


def _split(indices: Sequence[int], branches: dict[int, Tokens], room: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    used = 0
    for index in indices:
        length = len(branches[index])
        if parts[-1] and used + length > room:
            parts.append([])
            used = 0
        parts[-1].append(index)
        used += length
    return parts


def can_share(model: Any) -> bool:
    """Whether a model computes what a row means: full attention with positions given to it."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) is not None
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return kinds == {"full_attention"} and not windowed and takes_positions


def lay_out(rows: Sequence[ContextRow], pad: int, behind: int = 0) -> dict[str, Tensor]:
    """The model's inputs for some rows, padded on the right.

    Args:
        rows: The rows.
        pad: The token that fills them up.
        behind: How many tokens lie before them, which were read already and which all see.

    Returns:
        `input_ids` of shape `(rows, longest)`; if any row has several branches also
        `position_ids` of the same shape and the `attention_mask`, shape
        `(rows, 1, longest, behind + longest)`, 0 where a token may look and very negative
        elsewhere.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([row.tokens + (pad,) * (longest - len(row)) for row in rows])
    # Without branches a causal model never looks at padding on the right: no mask is needed.
    if all(len(row.branches) == 1 or len(row) == len(row.context) for row in rows):
        return {"input_ids": ids}
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    segments = torch.full((len(rows), longest), -1)
    for number, row in enumerate(rows):
        start = len(row.context)
        positions[number, :start] = torch.arange(start)
        segments[number, :start] = 0
        for segment, branch in enumerate(row.branches, start=1):
            stop = start + len(branch)
            positions[number, start:stop] = torch.arange(len(branch)) + len(row.context)
            segments[number, start:stop] = segment
            start = stop
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
    own = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    seen = torch.cat([torch.ones(len(rows), longest, behind, dtype=torch.bool), earlier & own], 2)
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    return {
        "input_ids": ids,
        "position_ids": positions + behind,
        "attention_mask": mask[:, None],
    }
