"""Trains a student: transformers' Trainer, with checkpoints that are complete or absent.

A checkpoint is written beside its place, synced and renamed, so that a process that is killed
leaves the one before. Passes come in an order that follows from the seed alone: a training that
is continued sees the same ones, and on a CPU gives the same losses bit for bit.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from evomerge.checkpoints.durability import sync_files, sync_folder, write_atomically
from evomerge.refinement.training.learning_curve import check_finite, has_settled, is_best
from evomerge.refinement.training.low_rank import trainable
from evomerge.refinement.training.schedule import schedule_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.utils.data import Dataset

    from evomerge.recipe.refine import Training
    from evomerge.refinement.training.student import Student

WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
LOSS = "eval_loss"


class RefineTrainer(Trainer):  # type: ignore[misc] # (transformers has no types)
    """A Trainer of a student's trainable parameters.

    Args:
        student: The student.
        arguments: What `arguments_of` gives.
        passes: What is read, in order.
        validation: What tells whether it gets better.
        stopping: Says when it ends.
    """

    def __init__(
        self,
        student: Student,
        arguments: TrainingArguments,
        passes: Dataset[Any],
        validation: Dataset[Any] | None,
        stopping: EarlyStopping,
    ) -> None:
        # DataParallel would cut a pass into parts that mean nothing: one GPU for each process.
        arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001
        super().__init__(
            model=student,
            args=arguments,
            train_dataset=passes,
            eval_dataset=validation,
            data_collator=_only,
            callbacks=[stopping],
        )
        # Progress is told in another way.
        self.remove_callback(PrinterCallback)
        # The student divides by the labels of the whole step.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self._saving: Path | None = None
        self._stopping = stopping

    def fit(self) -> None:
        """Train, from the last checkpoint if there is one."""
        last = latest_checkpoint(self._folder)
        if last is not None:
            state = TrainerState.load_from_json(str(Path(last, TRAINER_STATE_NAME)))
            if self._stopping.is_over(state):
                # transformers would take a step before it asks.
                self.state = state
                return
        self.args.eval_on_start = last is None and self.eval_dataset is not None
        self.train(resume_from_checkpoint=last)

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._saving = self._folder / ".saving"
        shutil.rmtree(self._saving, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error):
                raise
            # All that torch says of a disk that is full.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        written = next(self._saving.iterdir())
        sync_files(written)
        older = sorted(self._folder.glob("checkpoint-*"))
        final = self._folder / written.name
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        sync_folder(self._folder)
        for each in older:
            if each != final:
                shutil.rmtree(each)
        self._saving = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.model, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint) / WEIGHTS)


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Keeps the best weights, reports, and ends a training that gains nothing more or is stopped.

    Args:
        folder: Where the best weights are kept.
        patience: Comparisons without a gain after which the training ends.
        report: Told the steps done, and of how many.
        stop: Whether the training should be saved and left.

    Attributes:
        stopped: Whether it was saved and left.
    """

    def __init__(
        self,
        folder: Path,
        patience: int,
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._folder, self._patience, self._report, self._stop = folder, patience, report, stop
        self.stopped = False

    def is_over(self, state: TrainerState) -> bool:
        """Whether a training has gained nothing for as long as it may."""
        return has_settled(validation_losses(state.log_history), self._patience)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Keep the weights if they are the best; end if they were not for long."""
        losses = validation_losses(state.log_history)
        if is_best(losses):
            save_trained(given["model"], self._folder / BEST)
        control.should_training_stop |= self.is_over(state)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Refuse to go on with what is NaN or infinite, before its weights are kept."""
        step = state.global_step
        for name, what, updates in (
            ("loss", "loss", step - 1),
            ("grad_norm", "gradient", step - 1),
            (LOSS, "validation loss", step),
        ):
            check_finite(what, given["logs"].get(name, 0.0), step=step, updates=updates)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Save and leave when asked to."""
        self._report(state.global_step, state.max_steps)
        if self._stop():
            self.stopped = control.should_save = control.should_training_stop = True


def training_losses(history: Sequence[dict[str, Any]]) -> list[float]:
    """The losses of the optimiser steps, in order."""
    return [entry["loss"] for entry in history if "loss" in entry]


def validation_losses(history: Sequence[dict[str, Any]]) -> list[float]:
    """The losses on the validation texts, in the order in which they were measured."""
    return [entry[LOSS] for entry in history if LOSS in entry]


def arguments_of(
    settings: Training, folder: Path, *, rate: float, passes: int, validated: bool, cpu: bool
) -> TrainingArguments:
    """The arguments of transformers' Trainer.

    Args:
        settings: How the student is trained.
        folder: Where checkpoints go.
        rate: Highest learning rate.
        passes: How many passes there are.
        validated: Whether there are validation texts.
        cpu: Whether the student is on a CPU.
    """
    accumulation, steps, every = schedule_of(settings, passes)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=round(settings.warmup * steps),
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.1 if settings.what == "full" else 0.0,
        max_grad_norm=1.0,
        activation_checkpointing=settings.gradient_checkpointing,
        logging_steps=1,
        # What is NaN must be seen.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every,
        eval_strategy="steps" if validated else "no",
        eval_steps=every,
        prediction_loss_only=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        seed=settings.seed,
        use_cpu=cpu,
    )


def latest_checkpoint(folder: Path) -> str | None:
    """The checkpoint that a training can be continued from."""
    found = get_last_checkpoint(str(folder)) if folder.exists() else None
    return None if found is None else str(found)


def save_trained(student: Any, file: Path) -> None:
    """Write the trained parameters."""
    tensors = {name: each.detach().contiguous() for name, each in trainable(student).items()}
    write_atomically(file, save(tensors))


def load_trained(student: Any, file: Path) -> None:
    """Read the trained parameters."""
    found = load_file(file)
    with torch.no_grad():
        for name, parameter in trainable(student).items():
            parameter.copy_(found[name])


def _only(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """The one pass of a batch: a pass fills a batch by itself."""
    return passes[0]
