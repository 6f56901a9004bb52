"""A tiny student with texts to learn from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tiny_family import WORDS

from evomerge.live_model import load_model
from evomerge.merging.engine import merge_tensor
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.refine import Refinement
from evomerge.refinement.distil import distil
from evomerge.refinement.distillation import Distillation
from evomerge.refinement.teachers.cached import Corpus, TeacherOpener
from evomerge.refinement.texts.examples import read_examples
from evomerge.refinement.texts.sequences import make_sequences

if TYPE_CHECKING:
    from evomerge.recipe.distillation import Teacher
    from evomerge.refinement.predictions.targets import Targets


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


def asked(work: Distillation) -> tuple[TeacherOpener, Corpus]:
    """What asks the teachers of a student."""
    library = SourceLibrary(Path("/"))
    _, tokenizer = load_model(
        library.model(work.student.base).folder, torch.float32, torch.device("cpu")
    )
    examples = read_examples(Path(work.settings.data.path)).examples
    made = make_sequences(examples, tokenizer, work.settings.data.max_tokens)
    corpus = Corpus(examples=examples, sequences=made.sequences, tokenizer=tokenizer)
    return TeacherOpener(work, library, corpus, quiet), corpus


def targets_of(work: Distillation) -> list[Targets]:
    """The targets of the only teacher, of every text."""
    opener, corpus = asked(work)
    teacher = opener.open(work.teachers[0], frozenset(each.index for each in corpus.sequences))
    return [teacher.targets_of(each.index) for each in corpus.sequences]


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


def distil_until(work: Distillation, steps: int) -> None:
    """Train, and ask to stop after so many optimiser steps."""
    done = 0

    def heard(what: str, now: int, _: int) -> None:
        nonlocal done
        done = now if what == "training" else done

    distil(work, heard, lambda: done >= steps)
