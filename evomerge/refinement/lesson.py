"""What is at hand when a student is trained: its model, its texts, and what teachers say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.live_model import choose_device, choose_dtype, load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.refinement.data import Examples, read_examples, validation_part
from evomerge.refinement.packing import keeps_apart
from evomerge.refinement.passes import Passes, plan_passes
from evomerge.refinement.sequences import Sequences, make_sequences
from evomerge.refinement.student import Student
from evomerge.refinement.targets import loss_of, targets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import Training
    from evomerge.refinement.distil import Distillation
    from evomerge.refinement.passes import Targets
    from evomerge.refinement.targets import Tell

CHECKPOINTS = "checkpoints"
"""The folder of a training's checkpoints, in its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A training that may begin.

    Attributes:
        work: What is trained, and how.
        library: Opens models.
        model: The live model, which holds the student's weights.
        tokenizer: Its tokenizer.
        weights: Its weights by their stored names.
        examples: The texts.
        sequences: The texts as the student reads them.
        targets: What teachers predict; None without teachers.
        tell: Told how far it is.
        stop: Whether to save and to leave.
    """

    work: Distillation
    library: SourceLibrary
    model: Any
    tokenizer: Any
    weights: Mapping[str, Tensor]
    examples: Examples
    sequences: Sequences
    targets: Targets | None
    tell: Tell
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
        loss = loss_of(self.work.settings.loss, vocabulary, taught=self.targets is not None)
        return Student(self.model, loss, vocabulary)

    def passes(self) -> tuple[Passes, Passes | None]:
        """What is learned from, and what tells whether it helps, if there is any."""
        held = validation_part(self.examples.examples, self.work.settings.data.validation)
        own = [each for each in self.sequences.sequences if each.index not in held]
        other = [each for each in self.sequences.sequences if each.index in held]
        packed, train = keeps_apart(self.model), self.train
        passes = plan_passes(own, train, packed=packed, epochs=train.epochs)
        watched = plan_passes(other, train.whole(), packed=packed, epochs=1) if other else None
        return (
            Passes(passes, self.targets),
            None if watched is None else Passes(watched, self.targets),
        )

    def about(self) -> dict[str, Any]:
        """What was read, in numbers."""
        return {
            "texts": len(self.examples.examples),
            "duplicates": self.examples.duplicates,
            "dropped": self.sequences.dropped,
        }


def open_lesson(
    work: Distillation, library: SourceLibrary, tell: Tell, stop: Callable[[], bool]
) -> Lesson:
    """Read the texts, ask the teachers, and load the student.

    Raises:
        EvomergeError: A model, a text or a setting cannot be used.
    """
    base = library.model(work.student.base)
    device = choose_device(work.device)
    model, tokenizer = load_model(base.folder, choose_dtype(work.dtype, device), device)
    examples = read_examples(Path(work.settings.data.path))
    read = make_sequences(examples.examples, tokenizer, work.settings.data.max_tokens)
    # Teachers go before the student comes: there is room for one of them.
    targets = targets_of(work, library, read.sequences, len(tokenizer), tell)
    weights = named_weights(model, base.headers)
    ResidentWeights(weights, library).merge(work.student)
    return Lesson(
        work=work,
        library=library,
        model=model,
        tokenizer=tokenizer,
        weights=weights,
        examples=examples,
        sequences=read,
        targets=targets,
        tell=tell,
        stop=stop,
    )
