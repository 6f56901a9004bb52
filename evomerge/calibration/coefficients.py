"""Learns the coefficients of task arithmetic, one for each source, layer and part of the model.

AdaMerging: Yang et al. 2023, https://arxiv.org/abs/2310.02575, section 3.2, clamps coefficients to
[0, 1] and follows the entropy of predictions, or the loss on texts. SuperMerge: Yang et al. 2024,
https://arxiv.org/abs/2412.10416, takes the tanh of what it learns and follows the loss on texts.

The merge is linear in its coefficients, so the gradient of one is the product of the gradient of
the weights with a task vector: nothing is kept but one model and its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from evomerge.calibration.family import Family, open_family
from evomerge.errors import RecipeError
from evomerge.layout import Place, locate
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.merge import MergeRecipe, Rule
from evomerge.recipe.schema import Natural, Number, Positive, Strict
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.sensitivity.calibration import Document
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress

DECIMALS = 6
"""Digits kept of a coefficient, so that recipes can be read."""

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
    mixture = _Mixture(open_family(_checked(recipe), library, calibrator), settings.loss)
    free = mixture.start().clamp(0, 1)
    losses = []
    for step, optimizer in _steps(free, settings, progress):
        found, free.grad = mixture.gradient(free, step, settings.batch)
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
    mixture = _Mixture(open_family(_checked(recipe), library, calibrator), "supervised")
    free = mixture.start().clamp(-0.999, 0.999).atanh()
    losses = []
    for step, optimizer in _steps(free, settings, progress):
        coefficients = free.tanh()
        found, gradient = mixture.gradient(coefficients, step, settings.batch)
        free.grad = gradient * (1 - coefficients.square())
        losses.append(found)
        optimizer.step()
    return Learned(recipe=mixture.recipe(free.tanh(), library.root), losses=tuple(losses))


def _checked(recipe: MergeRecipe) -> MergeRecipe:
    if recipe.operator != "task_arithmetic":
        raise RecipeError(
            f"operator: {recipe.operator}, but coefficients are learned of task_arithmetic, "
            "starting from its weights"
        )
    return recipe


def _steps(
    free: Tensor, settings: AdaMergingSettings | SuperMergeSettings, progress: Progress | None
) -> Iterator[tuple[int, torch.optim.Adam]]:
    optimizer = torch.optim.Adam([free], lr=settings.rate)
    for step in range(settings.steps):
        yield step, optimizer
        if progress:
            progress(step + 1, settings.steps)


class _Mixture:
    """A live model whose weights are the base's and coefficients times task vectors."""

    def __init__(self, family: Family, objective: Loss) -> None:
        self._family = family
        self._objective = entropy if objective == "entropy" else loss
        places = {stored: locate(stored) for stored in family.names.values()}
        self._places = sorted(set(places.values()), key=_order)
        self._group = {name: self._places.index(place) for name, place in places.items()}

    def start(self) -> Tensor:
        """The coefficients of the recipe, shape `(M, groups)`, float64: means over tensors."""
        columns = []
        for group in range(len(self._places)):
            jobs = [self._family.jobs[n] for n, own in self._group.items() if own == group]
            rows = []
            for job in jobs:
                weight = torch.tensor(job.arguments["weight"], dtype=torch.float64)
                if job.arguments["normalize"] and abs(total := float(weight.sum())) >= 1e-8:
                    weight /= total
                rows.append(weight * job.arguments["scale"])
            columns.append(torch.stack(rows).mean(dim=0))
        return torch.stack(columns, dim=1)

    def gradient(self, coefficients: Tensor, step: int, batch: int) -> tuple[float, Tensor]:
        """The mean loss of a step's texts, and its gradient, shaped as the coefficients."""
        self._write(coefficients)
        sources = range(len(coefficients))
        texts = [text for each in sources for text in self._family.batch(each, step, batch)]
        found = self._family.backward(self._objective, texts, step)
        return found, self._project(coefficients)

    def _write(self, coefficients: Tensor) -> None:
        for live, parameter in self._family.model.named_parameters():
            name = self._family.names[live]
            parameter.copy_(self._family.base(name))
            for source, row in enumerate(coefficients):
                share = float(row[self._group[name]])
                parameter.add_(self._family.delta(source, name), alpha=share)

    def _project(self, coefficients: Tensor) -> Tensor:
        gradient = torch.zeros_like(coefficients)
        for live, parameter in self._family.model.named_parameters():
            name = self._family.names[live]
            if parameter.grad is not None:
                for source, row in enumerate(gradient):
                    product = parameter.grad * self._family.delta(source, name)
                    row[self._group[name]] += product.sum(dtype=torch.float64).cpu()
            parameter.grad = None
        return gradient

    def recipe(self, coefficients: Tensor, root: Path) -> MergeRecipe:
        """The merge with these coefficients."""
        old = with_absolute_paths(self._family.recipe, root)
        sources = tuple(
            source.model_copy(update={"parameters": {"weight": self._rules(row.tolist())}})
            for source, row in zip(old.sources, coefficients, strict=True)
        )
        return old.model_copy(update={"sources": sources, "parameters": {}, "calibration": None})

    def _rules(self, values: Sequence[float]) -> tuple[Rule, ...]:
        rules = [
            Rule(
                value=round(value, DECIMALS),
                layers=None if place.layer is None else (place.layer, place.layer + 1),
                component=place.component,
            )
            for place, value in zip(self._places, values, strict=True)
        ]
        return (*rules, Rule(value=rules[-1].value))


def entropy(model: Any, text: Document) -> Tensor:
    """Mean entropy of the predicted tokens of a text, in nats."""
    logits: Tensor = model(input_ids=text.ids[None].to(model.device), use_cache=False).logits[0]
    chances = logits.float().log_softmax(dim=-1)
    return -(chances.exp() * chances).sum(dim=-1).mean()


def _order(place: Place) -> tuple[bool, int, str]:
    """Layers first: a rule without layers speaks about them too."""
    return place.layer is None, place.layer or 0, place.component.value
