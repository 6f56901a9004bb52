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
    absolute = partial(resolve_reference, root=root)
    tokenizer, calibration = recipe.tokenizer, recipe.calibration
    return recipe.model_copy(
        update={
            "base": absolute(recipe.base),
            "base_recipe": recipe.base_recipe and with_absolute_paths(recipe.base_recipe, root),
            "sources": tuple(_source(source, root) for source in recipe.sources),
            "tokenizer": tokenizer and tokenizer.renamed(absolute),
            "calibration": calibration and calibration.under(root),
        }
    )


def _source(source: Source, root: Path) -> Source:
    update: dict[str, object] = {}
    if source.model is not None:
        update["model"] = resolve_reference(source.model, root=root)
    if source.recipe is not None:
        update["recipe"] = with_absolute_paths(source.recipe, root)
    found = source.model_copy(update=update)
    return (
        found if found.label == source.label else found.model_copy(update={"name": source.label})
    )
