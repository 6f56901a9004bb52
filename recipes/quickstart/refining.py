"""Items to refine a merge with: of every skill, and neither trained on nor examined."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import TYPE_CHECKING

from items import TERMINATOR, Item, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from skills import Skill


def write_refine_items(folder: Path, skills: Sequence[Skill], *, count: int, seed: int) -> None:
    """Writes `refine.jsonl` beside the skills' items, unless it is there.

    Each line has `prompt`, `completion`, which is what lm-eval scores and experts learned, and
    `domain`, the skill. Skills take turns, so that the first few lines have them all.

    Args:
        folder: Has every skill's items; they are read and left as they are.
        skills: The skills.
        count: The most items of a skill.
        seed: Seeds the choice.
    """
    path = folder / "refine.jsonl"
    if path.exists():
        return
    chosen = []
    for skill in skills:
        training, examined = (
            _read(folder / f"{skill.name}-{part}.jsonl") for part in ("train", "eval")
        )
        asked = {record["question"] for record in (*training, *examined)}
        groups = unseen(skill.groups(), asked, {record["id"] for record in examined})
        items, _ = split(
            groups, train_count=count, eval_count=0, seed=f"{seed}:{skill.name}:refine"
        )
        chosen.append([_record(item, skill.name) for item in items])
    lines = [record for turn in zip_longest(*chosen) for record in turn if record]
    part = path.with_suffix(".partial")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in lines)
    part.rename(path)


def unseen(
    groups: Iterable[tuple[Item, ...]], asked: set[str], examined: set[str]
) -> list[tuple[Item, ...]]:
    """The items that may still be asked.

    Args:
        groups: The items of each word or document.
        asked: The questions that were asked before.
        examined: The words and documents to ask nothing about.
    """
    return [
        tuple(item for item in group if item.id not in examined and item.question not in asked)
        for group in groups
    ]


def _record(item: Item, domain: str) -> dict[str, str]:
    completion = f" {item.answer}{TERMINATOR}"
    return {"prompt": item.question, "completion": completion, "domain": domain}


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
