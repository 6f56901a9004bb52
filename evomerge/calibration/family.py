"""What all procedures start from: the models of a recipe, one of them live, and their texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import EvaluationError, RecipeError
from evomerge.live_model import choose_device, load_checkpoint, stored_names
from evomerge.merging.engine import merge_tensor
from evomerge.sensitivity.calibration import Document
from evomerge.sensitivity.statistics import window_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.merging.operands import Operands
    from evomerge.merging.plan import TensorJob
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator


Objective = Callable[[Any, Document], Tensor]
"""The loss of a live model on a text, shape `()`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The models of a recipe.

    Attributes:
        recipe: The recipe.
        model: The base as a live model in float32, to write weights into.
        names: The stored name of each of its parameters, by their live name.
        operands: The recipe's plan and readers of base and sources.
        jobs: The jobs of the recipe's plan by tensor.
        texts: The texts of each source.
    """

    recipe: MergeRecipe
    model: Any
    names: Mapping[str, str]
    operands: Operands
    jobs: Mapping[str, TensorJob]
    texts: Sequence[Sequence[Document]]

    def merged(self, name: str) -> Tensor:
        """The tensor that the recipe makes, in the dtype it is stored in."""
        job = self.jobs[name]
        out = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(self.operands, job, out)
        return out

    def base(self, name: str) -> Tensor:
        """The base's tensor in float32, where the live model is."""
        return self.operands.base(name).to(self.model.device, torch.float32)

    def delta(self, source: int, name: str) -> Tensor:
        """The task vector of a source in float32, where the live model is."""
        return self.source(source, name) - self.base(name)

    def batch(self, source: int, step: int, size: int) -> list[Document]:
        """The texts of a source in a step: the next ones each time, none twice at once."""
        own = self.texts[source]
        return [own[(step * size + turn) % len(own)] for turn in range(min(size, len(own)))]

    def backward(self, objective: Objective, texts: Sequence[Document], step: int) -> float:
        """Put the gradient of the mean loss of texts into the live model, and return the loss.

        Raises:
            EvaluationError: The loss is not finite.
        """
        total = 0.0
        self.model.requires_grad_(requires_grad=True)
        with torch.enable_grad():
            for text in texts:
                found = objective(self.model, text) / len(texts)
                torch.autograd.backward(found)
                total += float(found.detach())
        self.model.requires_grad_(requires_grad=False)
        if not math.isfinite(total):
            raise EvaluationError(
                f"the loss is {total} in step {step + 1}; the merge overflows on these texts, so "
                "start from smaller weights or look at the models"
            )
        return total

    def source(self, source: int, name: str) -> Tensor:
        """A source's tensor in float32, where the live model is."""
        return self.operands.sources[source](name).to(self.model.device, torch.float32)


def open_family(recipe: MergeRecipe, library: SourceLibrary, calibrator: Calibrator) -> Family:
    """Open the models of a recipe, load the base and tokenise the texts.

    Args:
        recipe: A recipe with a calibration.
        library: Opens its models.
        calibrator: Reads its texts and says where models run.

    Raises:
        RecipeError: The recipe gives a source no texts, or changes layers or vocabulary.
        ModelError: A model cannot be opened or run.
        EvaluationError: The texts of a source are too short.
    """
    if recipe.calibration is None:
        raise RecipeError(
            "calibration: is missing; write calibration: {texts: FILE} at the top of the recipe"
        )
    labels = [source.label for source in recipe.sources]
    given = [calibrator.texts(recipe, label, library.root) for label in labels]
    for label, texts in zip(labels, given, strict=True):
        if texts is None:
            raise RecipeError(f"calibration.texts: has no file for {label}; give it one")
    checkpoint = library.model(recipe.base)
    model, tokenizer = load_checkpoint(checkpoint, torch.float32, choose_device(calibrator.device))
    window = window_of(model)
    found = [texts.documents(tokenizer, window) for texts in given if texts is not None]
    return replace(family_of(recipe, library, model), texts=found)


def family_of(recipe: MergeRecipe, library: SourceLibrary, model: Any) -> Family:
    """The models of a recipe around a live one, without texts.

    Args:
        recipe: The recipe.
        library: Opens its models.
        model: Its base, or any model of that shape, as a live model.

    Raises:
        RecipeError: The recipe changes layers or vocabulary.
        ModelError: A model cannot be opened.
    """
    for name in ("stack", "tokenizer", "mergekit_compat"):
        if getattr(recipe, name) is not None:
            raise RecipeError(
                f"{name}: a merge that is calibrated keeps the base's layers, vocabulary and our "
                "arithmetic; export it first and calibrate with that as a source"
            )
    operands = library.operands(recipe)
    return Family(
        recipe=recipe,
        model=model,
        names=stored_names(model, library.model(recipe.base).headers),
        operands=operands,
        jobs={job.name: job for job in operands.plan.jobs},
        texts=(),
    )
