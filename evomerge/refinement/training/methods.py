"""What can be trained of a student: an update of low rank, all weights, coefficients, layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.calibration.family import family_of
from evomerge.calibration.mixture import Mixture, check_linear
from evomerge.calibration.prodistill import ProDistillSettings, prodistill
from evomerge.calibration.writing import write_model
from evomerge.checkpoints import open_checkpoint
from evomerge.checkpoints.durability import write_atomically
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.refinement.texts.examples import as_record
from evomerge.refinement.training.coefficients import CoefficientTraining
from evomerge.refinement.training.layers import layers_to_train
from evomerge.refinement.training.low_rank import adapter_files, attach
from evomerge.refinement.training.schedule import read_in, schedule_of
from evomerge.refinement.training.setup import CHECKPOINTS, stopped
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.recipe.refine import Training
    from evomerge.refinement.training.passes import Passes
    from evomerge.refinement.training.setup import TrainingSetup
    from evomerge.refinement.training.student import Student

    Course = dict[str, Any]
    Method = Callable[[TrainingSetup], tuple[MergeRecipe, Course]]
    """Trains a student, and returns what it has become and how the training went."""

RATES = {"lora": 1e-4, "full": 5e-6, "coefficients": 1e-2}
"""Highest learning rates where a recipe gives none: a merge lies in a basin that is trained."""


def train_low_rank(setup: TrainingSetup) -> tuple[MergeRecipe, Course]:
    """Train a low-rank update: a task vector that later searches can use as any other."""
    train, base = setup.train, setup.library.model(setup.work.student.base)
    layers = layers_to_train(setup.work, setup.library, setup.weights)
    alpha = train.alpha or 2 * train.rank
    attach(setup.model, rank=train.rank, alpha=alpha, layers=layers, seed=train.seed)
    course = _fit(setup, setup.student())
    files = adapter_files(setup.model, rank=train.rank, alpha=alpha, base=base.reference)
    folder = _write_adapter(setup.folder, *files)
    return _updated(setup.work.student, folder), course | {"layers": sorted(layers)}


def train_all(setup: TrainingSetup) -> tuple[MergeRecipe, Course]:
    """Train all weights, and write the model."""
    setup.model.requires_grad_(requires_grad=True)
    course = _fit(setup, setup.student())
    recipe = setup.work.student
    jobs = {job.name: job for job in setup.library.operands(recipe).plan.jobs}
    folder = setup.folder / "model"
    order = sorted(setup.weights)
    tensors = ((name, setup.weights[name].detach().to(jobs[name].dtype)) for name in order)
    shutil.rmtree(folder, ignore_errors=True)
    write_model(recipe, jobs, setup.library, folder, order, tensors, {})
    return _whole(recipe, folder), course


def train_coefficients(setup: TrainingSetup) -> tuple[MergeRecipe, Course]:
    """Train the coefficients of task arithmetic."""
    family = family_of(check_linear(setup.work.student), setup.library, setup.model)
    mixture = Mixture(family)
    training = CoefficientTraining(
        mixture,
        setup.student(),
        setup.train,
        setup.train.rate or RATES["coefficients"],
        setup.folder / CHECKPOINTS,
    )
    passes, watched = setup.passes()
    done = training.run(passes, watched, lambda *done: setup.report("training", *done), setup.stop)
    if not done:
        raise stopped(setup.folder)
    course = _course(setup.train, passes, training.losses, training.validation_losses)
    return mixture.recipe(training.best, setup.library.root), course


def train_layers(setup: TrainingSetup) -> tuple[MergeRecipe, Course]:
    """Fit the merge's layers to those of its sources, one after the other (ProDistill)."""
    work, folder = setup.work, setup.folder / "texts"
    folder.mkdir(exist_ok=True)
    texts = {}
    for source in check_linear(work.student).sources:
        own = [e for e in setup.examples.examples if e.domain in {source.label, None}]
        texts[source.label] = str(folder / f"{source.label}.jsonl")
        lines = [json.dumps(as_record(each)) for each in own or setup.examples.examples]
        (folder / f"{source.label}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    calibration = CalibrationSettings(
        texts=texts,
        samples=len(setup.examples.examples),
        max_tokens=work.settings.data.max_tokens,
    )
    recipe = work.student.model_copy(update={"calibration": calibration})
    settings = ProDistillSettings(
        epochs=setup.train.epochs, **({"rate": setup.train.rate} if setup.train.rate else {})
    )
    out = setup.folder / "model"
    shutil.rmtree(out, ignore_errors=True)
    prodistill(
        recipe,
        setup.library,
        Calibrator(device=work.device),
        settings,
        out,
        progress=lambda *done: setup.report("layers", *done),
    )
    return _whole(work.student, out), {}


METHODS: dict[str, Method] = {
    "lora": train_low_rank,
    "full": train_all,
    "coefficients": train_coefficients,
    "layerwise": train_layers,
}


def _fit(setup: TrainingSetup, student: Student) -> Course:
    # transformers' Trainer takes seconds to import.
    from evomerge.refinement.training import trainer as training

    train, checkpoints = setup.train, setup.folder / CHECKPOINTS
    passes, watched = setup.passes()
    stopping = training.EarlyStopping(
        checkpoints,
        train.patience,
        lambda *done: setup.report("training", *done),
        setup.stop,
    )
    arguments = training.arguments_of(
        train,
        checkpoints,
        rate=train.rate or RATES[train.what],
        passes=len(passes),
        validated=watched is not None,
        cpu=setup.model.device.type == "cpu",
    )
    trainer = training.RefineTrainer(student, arguments, passes, watched, stopping)
    trainer.fit()
    if stopping.stopped:
        raise stopped(setup.folder)
    history = trainer.state.log_history
    if watched is not None:
        training.load_trained(student, checkpoints / training.BEST)
    losses, watched_losses = training.training_losses(history), training.validation_losses(history)
    return _course(train, passes, losses, watched_losses)


def _course(
    train: Training, passes: Passes, losses: list[float], validation_losses: list[float]
) -> Course:
    """How a training went, which had a loss for each of its steps."""
    read = read_in(passes, train, len(losses))
    every = schedule_of(train, len(passes)).every
    compared = [min(number * every, len(losses)) for number in range(len(validation_losses))]
    return {
        "steps": len(losses),
        "tokens": read.tokens(),
        "supervised": read.supervised(),
        "validation_losses": validation_losses,
        "compared_at": compared,
        "losses": losses,
    }


def _write_adapter(folder: Path, weights: bytes, config: bytes) -> Path:
    """Write an adapter to a folder that is called after its content."""
    found = folder / f"adapter-{blake3(weights + config).hexdigest()[:12]}"
    found.mkdir(exist_ok=True)
    write_atomically(found / "adapter_config.json", config)
    write_atomically(found / "adapter_model.safetensors", weights)
    return found


def _whole(student: MergeRecipe, model: Path) -> MergeRecipe:
    """The recipe of a model that took the place of a merge; its folder is called after it."""
    identity = open_checkpoint(str(model), root=Path("/")).identity()
    called = model.with_name(f"model-{identity[:12]}")
    if not called.exists():
        model.rename(called)
    source = Source(model=str(called), name="refined")
    return MergeRecipe(
        base=student.base, sources=(source,), operator="linear", dtype=student.dtype
    )


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
