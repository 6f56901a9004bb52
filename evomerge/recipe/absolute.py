"""A recipe whose paths mean the same wherever it is read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.checkpoints import resolve_reference

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.recipe.merge import MergeRecipe, Source


def with_absolute_paths(recipe: MergeRecipe, root: Path) -> MergeRecipe:
    """The same recipe, which may be put anywhere; Hub ids and names of sources stay.

    Args:
        recipe: The recipe.
        root: Folder that its relative paths start from.

    Raises:
        ModelError: A model is neither a folder nor a Hub id.
    """
    return _absolute(recipe, root, {})


def _absolute(recipe: MergeRecipe, root: Path, done: dict[str, MergeRecipe]) -> MergeRecipe:
    if recipe.digest in done:
        return done[recipe.digest]
    absolute = partial(resolve_reference, root=root)
    tokenizer, calibration = recipe.tokenizer, recipe.calibration
    found = recipe.model_copy(
        update={
            "base": absolute(recipe.base),
            "base_recipe": recipe.base_recipe and _absolute(recipe.base_recipe, root, done),
            "sources": tuple(_source(source, root, done) for source in recipe.sources),
            "tokenizer": tokenizer and tokenizer.renamed(absolute),
            "calibration": calibration and calibration.under(root),
        }
    )
    return done.setdefault(recipe.digest, found)


def _source(source: Source, root: Path, done: dict[str, MergeRecipe]) -> Source:
    update: dict[str, object] = {}
    if source.model is not None:
        update["model"] = resolve_reference(source.model, root=root)
    if source.recipe is not None:
        update["recipe"] = _absolute(source.recipe, root, done)
    found = source.model_copy(update=update)
    return (
        found if found.label == source.label else found.model_copy(update={"name": source.label})
    )
