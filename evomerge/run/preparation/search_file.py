"""Reads a search recipe file, ours or mergekit-evolve's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.layout import layer_count
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.load import read_text, validate
from evomerge.recipe.mergekit.evolve import from_evolve, is_evolve
from evomerge.recipe.search import SearchRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFile:
    """What a search recipe file describes.

    Attributes:
        recipe: The recipe.
        root: Folder that its relative paths start from.
        notes: What its user should know.
    """

    recipe: SearchRecipe
    root: Path
    notes: tuple[str, ...] = ()


def read_search(file: Path, overrides: Sequence[str] = ()) -> SearchFile:
    """Read a search recipe.

    Args:
        file: The YAML file.
        overrides: `path.to.key=value` texts for the recipe in our format.

    Raises:
        RecipeError: It is wrong.
        ModelError: A model of mergekit-evolve's cannot be read; its layers have to be counted.
    """
    document = yaml.parse(read_text(file), str(file))
    if not is_evolve(document):
        recipe = validate(SearchRecipe, document, overrides)
        return SearchFile(recipe=recipe, root=file.resolve().parent)
    # Paths start where the format's users expect them to.
    library = SourceLibrary(Path.cwd())
    reading = from_evolve(document, lambda model: layer_count(library.model(model).headers))
    recipe = validate(SearchRecipe, reading.document, overrides)
    return SearchFile(recipe=recipe, root=library.root, notes=reading.notes)
