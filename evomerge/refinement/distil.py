"""One student, trained by its teachers: from a merge recipe to a refined one."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.checkpoints import tokenizer_digest
from evomerge.checkpoints.durability import write_atomically
from evomerge.checkpoints.tokenizer import chat_template
from evomerge.errors import EvaluationError, RunError
from evomerge.live_model import choose_device, choose_dtype, load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.refinement.beside import beside_of
from evomerge.refinement.data import read_examples, validation_part
from evomerge.refinement.layers import layers_to_train
from evomerge.refinement.low_rank import adapter_files, attach
from evomerge.refinement.packing import keeps_apart
from evomerge.refinement.pass_loss import loss_of
from evomerge.refinement.passes import Passes, plan_passes
from evomerge.refinement.sequences import make_sequences
from evomerge.refinement.student import Student
from evomerge.refinement.targets import targets_of
from evomerge.refinement.voices import Reading
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evomerge.recipe.refine import Refinement, Teacher
    from evomerge.refinement import sequences
    from evomerge.refinement.passes import Targets
    from evomerge.refinement.voices import Tell

RATES = {"lora": 1e-4, "full": 5e-6}
"""Highest learning rates where a recipe gives none: a merge lies in a basin that is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """A trained student.

    Attributes:
        recipe: What it is: the student's recipe and its update.
        course: How the training went, for tables and reports.
    """

    recipe: MergeRecipe
    course: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """A student to be trained; plain data, so that it can travel.

    Attributes:
        student: The merge that is trained; its paths are absolute.
        teachers: Whom it learns from; none, if it learns from the texts alone.
        settings: How it is trained; paths are absolute.
        folder: Where its checkpoints and the result are kept.
        device: Device, or `auto`.
        dtype: Precision of forward passes, or `auto`.
        threads: CPU threads.
    """

    student: MergeRecipe
    teachers: tuple[Teacher, ...]
    settings: Refinement
    folder: str
    device: str
    dtype: str
    threads: int

    def __call__(self, tell: Tell, stop: Callable[[], bool]) -> Distilled:
        """Train the student, from where an earlier process stopped, if one did.

        Args:
            tell: Told what is done, how much of it, and of how much.
            stop: Whether to save and to leave.

        Raises:
            RunError: What it learns from has changed since it began, or it was stopped.
            EvaluationError: The loss is not finite.
            EvomergeError: A model, a text or a setting cannot be used.
        """
        torch.set_num_threads(self.threads)
        folder, library = Path(self.folder), SourceLibrary(Path("/"), calibrate=Calibrator())
        _claim(folder, _contents(self, library))
        done = folder / "course.json"
        if not done.exists():
            course = _Training(self, library, tell, stop).run()
            write_atomically(done, (json.dumps(course, indent=2) + "\n").encode())
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        course = json.loads(done.read_text())
        return Distilled(recipe=_updated(self.student, folder / course["adapter"]), course=course)


class _Training:
    """The training of one student."""

    def __init__(
        self,
        work: Distillation,
        library: SourceLibrary,
        tell: Tell,
        stop: Callable[[], bool],
    ) -> None:
        self._work, self._library, self._tell, self._stop = work, library, tell, stop
        self._settings, self._train = work.settings, work.settings.train
        self._folder = Path(work.folder)

    def run(self) -> dict[str, Any]:
        """Train, write the update, and say how it went."""
        started = time.monotonic()
        work = self._work
        base = self._library.model(work.student.base)
        device = choose_device(work.device)
        model, tokenizer = load_model(base.folder, choose_dtype(work.dtype, device), device)
        found = read_examples(Path(self._settings.data.path))
        read, dropped = make_sequences(found.examples, tokenizer, self._settings.data.max_tokens)
        reading = Reading(examples=found.examples, sequences=read, tokenizer=tokenizer)
        weights = named_weights(model, base.headers)
        ResidentWeights(weights, self._library).merge(work.student)
        taught = targets_of(work, self._library, reading, self._tell, (model, weights))
        beside = beside_of(work, self._library, len(tokenizer))
        layers = layers_to_train(work, self._library, weights)
        alpha = self._train.alpha or 2 * self._train.rank
        attach(model, rank=self._train.rank, alpha=alpha, layers=layers, seed=self._train.seed)
        loss = loss_of(self._settings.loss, taught.tongue if taught else None, beside)
        student = Student(model, loss, len(tokenizer))
        held = validation_part(found.examples, self._settings.data.validation)
        course = self._fit(
            student,
            [each for each in read if each.index not in held],
            [each for each in read if each.index in held],
            taught.targets if taught else None,
        )
        files = adapter_files(model, rank=self._train.rank, alpha=alpha, base=base.reference)
        return course | {
            "adapter": _write_adapter(self._folder, *files),
            "layers": sorted(layers),
            "texts": len(found.examples),
            "duplicates": found.duplicates,
            "dropped": dropped,
            "alignment": dict(taught.notes) if taught else {},
            "seconds": round(time.monotonic() - started, 1),
        }

    def _fit(
        self,
        student: Student,
        read: Sequence[sequences.Sequence],
        validation: Sequence[sequences.Sequence],
        targets: Targets | None,
    ) -> dict[str, Any]:
        # transformers' Trainer takes seconds to import.
        from evomerge.refinement import trainer as training

        packed, train = keeps_apart(student.model), self._train
        passes = Passes(plan_passes(read, train, packed=packed, epochs=train.epochs), targets)
        watched = (
            Passes(plan_passes(validation, train.whole(), packed=packed, epochs=1), targets)
            if validation
            else None
        )
        checkpoints = self._folder / "checkpoints"
        course = training.Course(
            checkpoints,
            train.patience,
            lambda done, total: self._tell("training", done, total),
            self._stop,
        )
        trainer = training.RefineTrainer(
            student,
            training.arguments_of(
                train,
                checkpoints,
                rate=train.rate or RATES[train.what],
                passes=len(passes),
                validated=watched is not None,
            ),
            passes,
            watched,
            [course],
        )
        trainer.fit()
        if course.stopped:
            raise RunError(f"{self._folder}: the training was stopped; it can be continued")
        losses = training.validation_losses(trainer.state.log_history)
        if not all(map(math.isfinite, losses)):
            raise EvaluationError("the loss is not finite; train with a lower train.rate")
        if watched is not None:
            training.load_trained(student, checkpoints / training.BEST)
        return {
            "steps": trainer.state.global_step,
            "tokens": passes.tokens(),
            "supervised": passes.supervised(),
            "validation_losses": losses,
            "losses": training.training_losses(trainer.state.log_history),
        }


def _contents(work: Distillation, library: SourceLibrary) -> dict[str, str]:
    """Digests of all that a training follows from but its settings, by what it is."""
    base = library.model(work.student.base)
    texts = Path(work.settings.data.path)
    found = {
        f"{texts}, the texts": blake3(texts.read_bytes()).hexdigest(),
        "the tokenizer": str(tokenizer_digest(base.folder)),
        "the chat template": blake3(str(chat_template(base.folder)).encode()).hexdigest(),
    }
    for teacher in work.teachers:
        checkpoint = library.model(teacher.model)
        found[f"{teacher.model}, a teacher"] = checkpoint.identity()
        found[f"{teacher.model}, its tokenizer"] = str(tokenizer_digest(checkpoint.folder))
    return found | {name: version(name) for name in ("torch", "transformers", "peft")}


def _claim(folder: Path, contents: dict[str, str]) -> None:
    """Note what a training follows from, or check that it is what it was.

    Raises:
        RunError: Something has changed; the message says what.
    """
    file = folder / "contents.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(contents, indent=2) + "\n").encode())
        return
    before = json.loads(file.read_text())
    for what in before.keys() | contents.keys():
        was, now = (str(each.get(what, "none"))[:12] for each in (before, contents))
        if was != now:
            raise RunError(
                f"{what}: has changed since the training in {folder} began, from {was} to {now}; "
                "restore it, or remove that folder to train again"
            )


def _write_adapter(folder: Path, weights: bytes, config: bytes) -> str:
    """Write an adapter to a folder that is called after its content, and return that name."""
    name = f"adapter-{blake3(weights + config).hexdigest()[:12]}"
    (folder / name).mkdir(exist_ok=True)
    write_atomically(folder / name / "adapter_config.json", config)
    write_atomically(folder / name / "adapter_model.safetensors", weights)
    return name


def _updated(student: MergeRecipe, adapter: Path) -> MergeRecipe:
    """The recipe of a merge and an update of it."""
    return MergeRecipe(
        base=student.base,
        sources=(
            Source(recipe=student, name="merge"),
            Source(model=f"{student.base}+{adapter}", name="update"),
        ),
        operator="task_arithmetic",
        parameters={"weight": 1.0},
        dtype=student.dtype,
    )
