"""Checks whether strategy, search space and sources of a recipe go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import MergeRecipe
from evomerge.search.evolver_merged import MERGES
from evomerge.search.strategies import BREEDERS, BY_SCALES, FEWEST_SOURCES

if TYPE_CHECKING:
    from evomerge.recipe.search import SearchRecipe
    from evomerge.search.evolver_merged import Merge


def check_strategy(recipe: SearchRecipe) -> None:
    """Check what a strategy needs of the sources and of the search space.

    Raises:
        RecipeError: There are too few sources, calibration texts are missing, or something of the
            search space would have no effect.
    """
    strategy, found = recipe.search.strategy, len(recipe.sources)
    fewest = FEWEST_SOURCES.get(strategy, 1)
    if found < fewest:
        raise RecipeError(
            f"{strategy} breeds models from models and needs at least {fewest} sources, found "
            f"{found}; give more, or choose another strategy"
        )
    idle = next((each for each in ("prior", "path") if getattr(recipe.genome, each)), None)
    if strategy in BREEDERS and idle:
        raise RecipeError(
            f"{strategy} breeds models from models, whatever the genome is; leave "
            f"genome.{idle} out, or choose a strategy of coefficients"
        )
    prior = recipe.genome.prior
    if prior is not None and prior.steps and strategy not in BY_SCALES:
        raise RecipeError(
            f"genome.prior.steps is {prior.steps:g}, but all genes of {strategy} have the same "
            f"step; leave it out, or choose {' or '.join(sorted(BY_SCALES))}"
        )
    if strategy in MERGES:
        _check_merge_of_population(recipe, MERGES[strategy])


def _check_merge_of_population(recipe: SearchRecipe, merge: Merge) -> None:
    texts, labels = recipe.calibration, {source.label for source in recipe.sources}
    check_operator(
        MergeRecipe(
            base=recipe.base,
            sources=recipe.sources,
            operator=merge.operator,
            parameters=dict(merge.parameters),
            calibration=texts and texts.of(labels),
        )
    )


def check_path(recipe: SearchRecipe) -> None:
    """Check that a run can have candidates with layers of their own.

    Raises:
        RecipeError: The backend or the refinement keeps the base's layers.
    """
    if recipe.genome.path and recipe.evaluation.backend == "vllm":
        raise RecipeError("vllm keeps the layers of the model that it loaded; leave backend out")
    if recipe.genome.path and recipe.refine:
        raise RecipeError(
            "a model with layers of its own is not refined by its run; leave refine out, export "
            "the winner and give its folder to evomerge refine"
        )
