"""A recipe whose paths mean the same wherever it is read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.checkpoints import resolve_reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evomerge.recipe.calibration import CalibrationSettings
    from evomerge.recipe.merge import MergeRecipe, Source


def with_absolute_paths(recipe: MergeRecipe, root: Path) -> MergeRecipe:
    """The same recipe, which may be put anywhere; Hub ids and names of sources stay.

    Args:
        recipe: The recipe.
        root: Folder that its relative paths start from.

    Raises:
        ModelError: A model is neither a folder nor a Hub id.
    """
    absolute = partial(resolve_reference, root=root)
    return _changed(recipe, absolute, lambda texts: texts.under(root), {})


def with_references(recipe: MergeRecipe, change: Callable[[str], str]) -> MergeRecipe:
    """The same recipe with other references to its models, in what it is made of as well.

    Args:
        recipe: The recipe; the names of its sources stay.
        change: Gives for a reference the one that takes its place.
    """
    return _changed(recipe, change, lambda texts: texts, {})


def _changed(
    recipe: MergeRecipe,
    change: Callable[[str], str],
    move: Callable[[CalibrationSettings], CalibrationSettings],
    done: dict[str, MergeRecipe],
) -> MergeRecipe:
    if recipe.digest in done:
        return done[recipe.digest]
    base_recipe, tokenizer, calibration = recipe.base_recipe, recipe.tokenizer, recipe.calibration
    found = recipe.model_copy(
        update={
            "base": change(recipe.base),
            "base_recipe": base_recipe and _changed(base_recipe, change, move, done),
            "sources": tuple(_source(source, change, move, done) for source in recipe.sources),
            "tokenizer": tokenizer and tokenizer.renamed(change),
            "calibration": calibration and move(calibration),
        }
    )
    return done.setdefault(recipe.digest, found)


def _source(
    source: Source,
    change: Callable[[str], str],
    move: Callable[[CalibrationSettings], CalibrationSettings],
    done: dict[str, MergeRecipe],
) -> Source:
    update: dict[str, object] = {}
    if source.model is not None:
        update["model"] = change(source.model)
    if source.measured_as is not None:
        update["measured_as"] = change(source.measured_as)
    if source.recipe is not None:
        update["recipe"] = _changed(source.recipe, change, move, done)
    found = source.model_copy(update=update)
    return (
        found if found.label == source.label else found.model_copy(update={"name": source.label})
    )
