"""A tiny student with texts to learn from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tiny_family import WORDS

from evomerge.merging.engine import merge_tensor
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.refine import Refinement
from evomerge.refinement.distillation import Distillation

if TYPE_CHECKING:
    from evomerge.recipe.distillation import Teacher


def merge_of(family: Path) -> MergeRecipe:
    """The uniform average of two siblings of a tiny family."""
    return MergeRecipe(
        base=str(family / "base"),
        sources=(Source(model=str(family / "one")), Source(model=str(family / "two"))),
        operator="task_arithmetic",
        parameters={"weight": 0.5},
    )


def write_texts(file: Path, count: int = 60) -> Path:
    """Write prompts of any words, and completions of four of them; one or the other domain."""
    rng = random.Random(0)
    lines = [
        json.dumps(
            {
                "prompt": " ".join(rng.choices(WORDS, k=4)),
                "completion": " " + " ".join(rng.choices(WORDS[:4], k=5)),
                "domain": ("one", "two")[index % 2],
            }
        )
        for index in range(count)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def distillation(
    family: Path, folder: Path, teachers: tuple[Teacher, ...] = (), **settings: Any
) -> Distillation:
    """A student that learns from texts beside `folder`, in a few steps."""
    texts = folder.parent / "texts.jsonl"
    if not texts.exists():
        write_texts(texts)
    train = {"rate": 1e-2, "epochs": 2, "batch_tokens": 256, "pass_tokens": 128}
    given = {"data": {"path": str(texts)}, **settings}
    given["train"] = train | given.get("train", {})
    return Distillation(
        student=merge_of(family),
        teachers=teachers,
        settings=Refinement.model_validate(given),
        folder=str(folder),
        device="cpu",
        dtype="auto",
        threads=1,
    )


def never() -> bool:
    """Never stop."""
    return False


def quiet(what: str, done: int, total: int) -> None:
    """Say nothing."""


def tensors(recipe: MergeRecipe) -> dict[str, torch.Tensor]:
    """All tensors that a recipe makes."""
    operands = SourceLibrary(Path("/")).operands(recipe)
    found = {}
    for job in operands.plan.jobs:
        found[job.name] = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(operands, job, found[job.name])
    return found


class StopAfter:
    """Asks a training to stop after so many optimiser steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0
