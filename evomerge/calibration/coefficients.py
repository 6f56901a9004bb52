"""Learns the coefficients of task arithmetic, one for each source, layer and part of the model.

AdaMerging: Yang et al. 2023, https://arxiv.org/abs/2310.02575, section 3.2, clamps coefficients to
[0, 1] and follows the entropy of predictions, or the loss on texts. SuperMerge: Yang et al. 2024,
https://arxiv.org/abs/2412.10416, takes the tanh of what it learns and follows the loss on texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from evomerge.calibration.family import open_family
from evomerge.calibration.mixture import Mixture, check_linear
from evomerge.recipe.schema import Natural, Number, Positive, Strict
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from evomerge.calibration.family import Objective
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.calibration import Document
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress

Rate = Annotated[Number, Field(ge=0)]
Loss = Literal["supervised", "entropy"]


class AdaMergingSettings(Strict):
    """How AdaMerging learns.

    Attributes:
        loss: `entropy` of the predictions, which rewards confidence, right or wrong, or
            `supervised`, the loss on the texts.
        rate: Learning rate of Adam.
        steps: Number of steps.
        batch: Texts of each source in a step.
    """

    loss: Loss = "entropy"
    rate: Rate = 1e-3
    steps: Natural = 500
    batch: Positive = 16


class SuperMergeSettings(Strict):
    """How SuperMerge learns.

    Attributes:
        rate: Learning rate of Adam.
        steps: Number of steps.
        batch: Texts of each source in a step.
    """

    rate: Rate = 1e-2
    steps: Natural = 100
    batch: Positive = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What was learned.

    Attributes:
        recipe: Task arithmetic with the coefficients found; its model paths are absolute.
        losses: The mean loss of the texts in each step, before the step.
    """

    recipe: MergeRecipe
    losses: tuple[float, ...]


def adamerging(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: AdaMergingSettings,
    progress: Progress | None = None,
) -> Learned:
    """Learn coefficients in [0, 1], starting from those of a recipe.

    Args:
        recipe: Task arithmetic with a calibration; the paper starts from weights of 0.3.
        library: Opens its models.
        calibrator: Reads its texts and says where models run.
        settings: How it learns.
        progress: Told the steps done, and of how many.

    Raises:
        RecipeError: The recipe is no task arithmetic, or gives a source no texts.
        ModelError: A model cannot be opened or run.
        EvaluationError: The loss is not finite.
    """
    mixture = Mixture(open_family(check_linear(recipe), library, calibrator))
    objective = entropy if settings.loss == "entropy" else loss
    free = mixture.start().clamp(0, 1)
    losses = []
    for step, optimizer in _steps(free, settings, progress):
        found, free.grad = _gradient(mixture, objective, free, step, settings.batch)
        losses.append(found)
        optimizer.step()
        free.clamp_(0, 1)
    return Learned(recipe=mixture.recipe(free, library.root), losses=tuple(losses))


def supermerge(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: SuperMergeSettings,
    progress: Progress | None = None,
) -> Learned:
    """Learn coefficients between -1 and 1, starting from those of a recipe.

    Takes and raises what `adamerging` does.
    """
    mixture = Mixture(open_family(check_linear(recipe), library, calibrator))
    free = mixture.start().clamp(-0.999, 0.999).atanh()
    losses = []
    for step, optimizer in _steps(free, settings, progress):
        coefficients = free.tanh()
        found, gradient = _gradient(mixture, loss, coefficients, step, settings.batch)
        free.grad = gradient * (1 - coefficients.square())
        losses.append(found)
        optimizer.step()
    return Learned(recipe=mixture.recipe(free.tanh(), library.root), losses=tuple(losses))


def _steps(
    free: Tensor, settings: AdaMergingSettings | SuperMergeSettings, progress: Progress | None
) -> Iterator[tuple[int, torch.optim.Adam]]:
    optimizer = torch.optim.Adam([free], lr=settings.rate)
    for step in range(settings.steps):
        yield step, optimizer
        if progress:
            progress(step + 1, settings.steps)


def _gradient(
    mixture: Mixture, objective: Objective, coefficients: Tensor, step: int, batch: int
) -> tuple[float, Tensor]:
    """The mean loss of a step's texts, and its gradient, shaped as the coefficients."""
    mixture.write(coefficients)
    family = mixture.family
    sources = range(len(coefficients))
    texts = [text for each in sources for text in family.batch(each, step, batch)]
    return family.backward(objective, texts, step), mixture.project(len(coefficients))


def entropy(model: Any, text: Document) -> Tensor:
    """Mean entropy of the predicted tokens of a text, in nats."""
    logits: Tensor = model(input_ids=text.ids[None].to(model.device), use_cache=False).logits[0]
    chances = logits.float().log_softmax(dim=-1)
    return -(chances.exp() * chances).sum(dim=-1).mean()
