"""What a training starts from: the student's model, its texts, and what teachers predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import RunError
from evomerge.live_model import choose_device, choose_dtype, load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.refinement.teachers.cached import Corpus
from evomerge.refinement.teachers.ensemble import Ensemble, asked_of, open_ensemble
from evomerge.refinement.teachers.live import LiveTeachers, open_live_teachers
from evomerge.refinement.texts.examples import Examples, read_examples
from evomerge.refinement.texts.packing import keeps_apart
from evomerge.refinement.texts.parts import Parts, set_aside
from evomerge.refinement.texts.sequences import Sequences, check_window, make_sequences
from evomerge.refinement.training.layers import layers_to_train
from evomerge.refinement.training.pass_loss import loss_of
from evomerge.refinement.training.passes import Passes, plan_passes
from evomerge.refinement.training.student import Student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import Training
    from evomerge.refinement.distillation import Distillation, Report

CHECKPOINTS = "checkpoints"
"""The folder of a training's checkpoints, in its own."""


IN_FLOAT32 = frozenset({"full", "coefficients"})
"""What is trained in weights of float32, whatever passes compute in: steps are smaller than what
is left over when a sum is rounded to bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """A training that may begin.

    Attributes:
        work: What is trained, and how.
        library: Opens models.
        model: The live model, which holds the student's weights.
        precision: What forward passes compute in.
        tokenizer: Its tokenizer.
        weights: Its weights by their stored names.
        examples: The texts.
        sequences: The texts as the student reads them.
        parts: Those that are learned from, and those that are set aside.
        ensemble: The teachers that have caches.
        live: Those that run beside the student.
        report: Told how far it is.
        stop: Whether to save and to leave.
    """

    work: Distillation
    library: SourceLibrary
    model: Any
    precision: torch.dtype
    tokenizer: Any
    weights: Mapping[str, Tensor]
    examples: Examples
    sequences: Sequences
    parts: Parts
    ensemble: Ensemble
    live: LiveTeachers | None
    report: Report
    stop: Callable[[], bool]

    @property
    def train(self) -> Training:
        """How the student is trained."""
        return self.work.settings.train

    @property
    def folder(self) -> Path:
        """Where the result is kept."""
        return Path(self.work.folder)

    def student(self) -> Student:
        """The model, answering a pass with its loss; adapters have to be in it already."""
        vocabulary = len(self.tokenizer)
        cached = [each.vocabulary for each in self.ensemble.members]
        loss = loss_of(self.work.settings.loss, cached, self.live)
        return Student(self.model, loss, vocabulary, self.precision)

    def passes(self) -> tuple[Passes, Passes | None]:
        """What is learned from, and what tells whether it helps, if there is any."""
        # Teachers beside the student read the packs that it reads.
        apart = keeps_apart(self.model) and (self.live is None or self.live.keep_apart())
        learned, watched = self.parts
        train = self.train
        passes = plan_passes(learned, train, packed=apart, epochs=train.epochs)
        targets = [each.targets_of for each in self.ensemble.members]
        if not watched:
            return Passes(passes, targets), None
        compared = plan_passes(watched, train.whole(), packed=apart, epochs=1)
        return Passes(passes, targets), Passes(compared, targets)

    def about(self) -> dict[str, Any]:
        """What was read, in numbers."""
        return {
            "texts": len(self.examples.examples),
            "duplicates": self.examples.duplicates,
            "dropped": self.sequences.dropped,
            "watched": len(self.parts.watched),
            "alignment": dict(self.ensemble.notes),
        }


def set_up(
    work: Distillation, library: SourceLibrary, report: Report, stop: Callable[[], bool]
) -> TrainingSetup:
    """Read the texts, ask the teachers, and load the student.

    Raises:
        EvomergeError: A model, a text or a setting cannot be used.
    """
    base = library.model(work.student.base)
    device = choose_device(work.device)
    precision = choose_dtype(work.dtype, device)
    dtype = torch.float32 if work.settings.train.what in IN_FLOAT32 else precision
    model, tokenizer = load_model(base.folder, dtype, device)
    examples = _own_texts(work, read_examples(Path(work.settings.data.path)))
    read = make_sequences(examples.examples, tokenizer, work.settings.data.max_tokens)
    check_window(model, read.sequences)
    share, asking = work.settings.data.validation, work
    if work.settings.train.what == "layerwise":
        # Layers are fitted to those of sources, to all texts, whatever teachers predict.
        share, asking = 0.0, replace(work, teachers=())
    parts = set_aside(read.sequences, examples.examples, share)
    weights = named_weights(model, base.headers)
    ResidentWeights(weights, library).merge(work.student)
    if work.settings.train.layers is not None:
        layers_to_train(work, library, weights)  # a mistake shows before teachers are asked
    corpus = Corpus(examples=examples.examples, sequences=read.sequences, tokenizer=tokenizer)
    ensemble = open_ensemble(
        asking, library, corpus, _until(stop, work.folder, report), (model, weights)
    )
    return TrainingSetup(
        work=work,
        library=library,
        model=model,
        precision=precision,
        tokenizer=tokenizer,
        weights=weights,
        examples=examples,
        sequences=read,
        parts=parts,
        ensemble=ensemble,
        live=open_live_teachers(asking, library, read.sequences, len(tokenizer)),
        report=report,
        stop=stop,
    )


def _own_texts(work: Distillation, examples: Examples) -> Examples:
    """The texts of the domains of the one teacher of a student of `pairwise`, if it has any.

    What a teacher makes of the others' texts would undo what the merge knows of them: on the
    quickstart's family it lost 3 points (benchmarks/LOG.md).
    """
    if work.settings.mode != "pairwise" or len(work.teachers) != 1:
        return examples
    (numbers,) = asked_of(work.settings, work.teachers, examples.examples)
    return examples._replace(examples=tuple(examples.examples[number] for number in numbers))


def stopped(folder: str | Path) -> RunError:
    """What says that a training was left before its end, when it was asked to."""
    return RunError(f"{folder}: the training was stopped; it can be continued")


def _until(stop: Callable[[], bool], folder: str, report: Report) -> Report:
    """A report after which teachers are asked no more when it is to stop: caches keep parts."""

    def told(what: str, done: int, total: int) -> None:
        report(what, done, total)
        if stop():
            raise stopped(folder)

    return told
