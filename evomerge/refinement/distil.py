"""One student, trained by its teachers: from a merge recipe to a refined one."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.checkpoints import named_errors, tokenizer_digest
from evomerge.checkpoints.durability import write_atomically
from evomerge.checkpoints.tokenizer import chat_template
from evomerge.errors import CompatibilityError, ModelError, RecipeError, RunError
from evomerge.memory import freed_memory_kept
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.lineage import ancestry, as_document
from evomerge.recipe.merge import MergeRecipe
from evomerge.refinement.training.methods import METHODS
from evomerge.refinement.training.setup import CHECKPOINTS, set_up
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.refinement.distillation import Distillation, Report

CONTENTS = "contents.json"
"""What a training follows from, in its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """A trained student.

    Attributes:
        recipe: What it is: the student's recipe and its update.
        course: How the training went, for tables and reports.
    """

    recipe: MergeRecipe
    course: dict[str, Any]


def distil(work: Distillation, report: Report, stop: Callable[[], bool]) -> Distilled:
    """Train a student, from where an earlier process stopped, if one did.

    Args:
        work: The student, its teachers and settings.
        report: Told what is done, how much of it, and of how much.
        stop: Whether to save and to leave.

    Raises:
        RunError: What it learns from has changed since it began, or it was stopped.
        EvaluationError: A loss is NaN or infinite, or what a teacher predicts is.
        OutputError: Its folder cannot be written; DiskFullError if the disk is full.
        EvomergeError: A model, a text or a setting cannot be used.
    """
    # On a cluster it may run on a smaller machine than the one that it was planned on.
    torch.set_num_threads(min(work.threads, len(os.sched_getaffinity(0))))
    with named_errors(Path(work.folder)):
        return _train(work, report, stop)


def _train(work: Distillation, report: Report, stop: Callable[[], bool]) -> Distilled:
    folder, library = Path(work.folder), SourceLibrary(Path("/"), calibrate=Calibrator())
    is_new = _claim(folder, _contents(work, library))
    file = folder / "course.json"
    if not file.exists():
        started = time.monotonic()
        with freed_memory_kept():
            try:
                setup = set_up(work, library, report, stop)
            except (CompatibilityError, ModelError, RecipeError):
                if is_new:  # Nothing follows from it yet: a mistake may be mended.
                    (folder / CONTENTS).unlink()
                raise
            recipe, course = METHODS[work.settings.train.what](setup)
        course |= setup.about() | {"seconds": round(time.monotonic() - started, 1)}
        found = {"recipe": as_document(recipe), **course}
        write_atomically(file, (json.dumps(found, indent=2) + "\n").encode())
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    found = _read(file)
    return Distilled(recipe=MergeRecipe.model_validate(found.pop("recipe")), course=found)


def _contents(work: Distillation, library: SourceLibrary) -> dict[str, str]:
    """Digests of all that a training follows from but its settings, by what it is."""
    base = library.model(work.student.base)
    texts = Path(work.settings.data.path)
    found = {
        f"{model}, of the student": library.model(model).identity()
        for recipe in (work.student, *ancestry([work.student]))
        for model in (recipe.base, *(source.model for source in recipe.sources if source.model))
    }
    found |= {
        f"{texts}, the texts": _digest_of(texts),
        "the tokenizer": str(tokenizer_digest(base.folder)),
        "the chat template": _template_of(base.folder),
    }
    for teacher in work.teachers:
        checkpoint = library.model(teacher.model)
        found[f"{teacher.model}, a teacher"] = checkpoint.identity()
        found[f"{teacher.model}, its tokenizer"] = str(tokenizer_digest(checkpoint.folder))
        found[f"{teacher.model}, its chat template"] = _template_of(checkpoint.folder)
    return found | {name: version(name) for name in ("torch", "transformers", "peft")}


def _template_of(folder: Path) -> str:
    return blake3(str(chat_template(folder)).encode()).hexdigest()


def _digest_of(texts: Path) -> str:
    try:
        return blake3(texts.read_bytes()).hexdigest()
    except OSError as error:
        raise RecipeError(f"{texts}: cannot be read: {error.strerror}") from error


def _claim(folder: Path, contents: dict[str, str]) -> bool:
    """Note what a training follows from, or check that it is what it was.

    Returns:
        Whether it was noted now.

    Raises:
        RunError: Something has changed; the message says what.
    """
    file = folder / CONTENTS
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(contents, indent=2) + "\n").encode())
        return True
    before = _read(file)
    for what in sorted(before.keys() | contents.keys()):
        was, now = (str(each.get(what, "none"))[:12] for each in (before, contents))
        if was != now:
            raise RunError(
                f"{what}: has changed since the training in {folder} began, from {was} to {now}; "
                "restore it, or remove that folder to train again"
            )
    return False


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(
            f"{file}: is damaged; remove {file.parent} to train this student again"
        ) from error
    return found
