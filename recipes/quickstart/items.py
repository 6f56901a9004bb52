"""Questions with answers, divided so that no word or document is both learned and examined."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


TERMINATOR = "\n"
"""Ends every answer, so that none is scored as the beginning of a longer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question with its answer.

    Attributes:
        id: The word or document the question is about; a skill asks at most one evaluation
            question about each.
        question: What the model reads, without a trailing space.
        answer: What it should write next.
        choices: The answers to choose from; empty where the answer is to be generated.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()


def split(
    groups: Iterable[tuple[Item, ...]], *, train_count: int, eval_count: int, seed: str
) -> tuple[list[Item], list[Item]]:
    """Divides items into training and evaluation, by word or document.

    Where items have choices, every choice is right equally often. No question is asked twice.

    Args:
        groups: The items of each word or document.
        train_count: The most training items to take; a word or document may give several.
        eval_count: The most evaluation items to take; a word or document gives at most one.
        seed: Seeds the order in which words and documents are considered.

    Returns:
        The training items and the evaluation items.
    """
    rng = random.Random(seed)  # noqa: S311 - a shuffle, not a secret
    shuffled = sorted(filter(None, groups), key=lambda group: group[0].id)
    rng.shuffle(shuffled)
    asked: set[str] = set()
    evaluation, rest = _Quota(eval_count), list[Item]()
    for group in shuffled:
        fresh = [item for item in group if item.question not in asked]
        chosen = evaluation.choose(rng.sample(fresh, len(fresh)))
        if chosen is None:
            rest.extend(group)
        else:
            asked.add(chosen.question)
    training = _Quota(train_count)
    rng.shuffle(rest)
    for item in rest:
        if item.question not in asked and training.choose([item]):
            asked.add(item.question)
    # Rare answers were taken last; a reader of the first few should see them too.
    rng.shuffle(evaluation.items)
    return training.items, evaluation.items


class _Quota:
    """Items taken so far, as many for one choice as for another."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.items: list[Item] = []
        self.taken: dict[str, int] = {}

    def choose(self, candidates: Sequence[Item]) -> Item | None:
        """Takes the candidate whose answer was taken least often, if there is room for one."""
        chosen = min(candidates, key=lambda item: self.taken.get(_label(item), 0), default=None)
        if chosen is None or len(self.items) >= self.count:
            return None
        label = _label(chosen)
        if self.taken.get(label, 0) >= self.count / max(1, len(chosen.choices)):
            return None
        self.taken[label] = self.taken.get(label, 0) + 1
        self.items.append(chosen)
        return chosen


def _label(item: Item) -> str:
    return item.answer if item.choices else ""


def write_items(items: Sequence[Item], path: Path) -> None:
    """Writes items as JSON lines, for lm-eval to read."""
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            record = asdict(item)
            if item.choices:
                # lm-eval adds no terminator of its own to a choice.
                record["choices"] = [f"{choice}{TERMINATOR}" for choice in item.choices]
                record["label"] = item.choices.index(item.answer)
            else:
                del record["choices"]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
