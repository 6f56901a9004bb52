"""Task arithmetic in a live model, one coefficient for each source, layer and part of the model.

The merge is linear in its coefficients, so the gradient of one is the product of the gradient of
the weights with a task vector: nothing is kept but one model and its gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.layout import Place, locate
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.merge import MergeRecipe, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.calibration.family import Family

DECIMALS = 6
"""Digits kept of a coefficient, so that recipes can be read."""


def check_linear(recipe: MergeRecipe) -> MergeRecipe:
    """A recipe whose merge is linear in its coefficients.

    Raises:
        RecipeError: It is no task arithmetic.
    """
    if recipe.operator != "task_arithmetic":
        raise RecipeError(
            f"operator: {recipe.operator}, but coefficients are learned of task_arithmetic, "
            "starting from its weights; merge by it, or learn something else"
        )
    return recipe


class Mixture:
    """A live model whose weights are the base's and coefficients times task vectors.

    Args:
        family: The models of a recipe of task arithmetic.

    Attributes:
        family: The same.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        places = {stored: locate(stored) for stored in family.names.values()}
        self._places = sorted(set(places.values()), key=_order)
        self._group = {name: self._places.index(place) for name, place in places.items()}

    def start(self) -> Tensor:
        """The coefficients of the recipe, shape `(M, groups)`, float64: means over tensors."""
        columns = []
        for group in range(len(self._places)):
            jobs = [self.family.jobs[n] for n, own in self._group.items() if own == group]
            rows = []
            for job in jobs:
                weight = torch.tensor(job.arguments["weight"], dtype=torch.float64)
                if job.arguments["normalize"] and abs(total := float(weight.sum())) >= 1e-8:
                    weight /= total
                rows.append(weight * job.arguments["scale"])
            columns.append(torch.stack(rows).mean(dim=0))
        return torch.stack(columns, dim=1)

    def write(self, coefficients: Tensor) -> None:
        """Make the live model hold the merge with these coefficients."""
        for live, parameter in self.family.model.named_parameters():
            name = self.family.names[live]
            parameter.copy_(self.family.base(name))
            for source, row in enumerate(coefficients):
                share = float(row[self._group[name]])
                parameter.add_(self.family.delta(source, name), alpha=share)

    def project(self, sources: int) -> Tensor:
        """The gradient of the coefficients, by that of the live weights, which is given back.

        Returns:
            Shape `(sources, groups)`, float64.
        """
        gradient = torch.zeros(sources, len(self._places), dtype=torch.float64)
        for live, parameter in self.family.model.named_parameters():
            name = self.family.names[live]
            if parameter.grad is not None:
                for source, row in enumerate(gradient):
                    product = parameter.grad * self.family.delta(source, name)
                    row[self._group[name]] += product.sum(dtype=torch.float64).cpu()
            parameter.grad = None
        return gradient

    def recipe(self, coefficients: Tensor, root: Path) -> MergeRecipe:
        """The merge with these coefficients."""
        old = with_absolute_paths(self.family.recipe, root)
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


def _order(place: Place) -> tuple[bool, int, str]:
    """Layers first: a rule without layers speaks about them too."""
    return place.layer is None, place.layer or 0, place.component.value
