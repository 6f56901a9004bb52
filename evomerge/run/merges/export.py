"""Hands a candidate out: as our recipe, as mergekit's, or as a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from evomerge.checkpoints import check_output_file, check_output_folder, write_output_file
from evomerge.errors import RecipeError
from evomerge.merging.export import export_checkpoint
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.dump import to_yaml
from evomerge.run.merges.mergekit_text import mergekit_text

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.merging.sources import SourceLibrary
    from evomerge.merging.vocabulary.plan import VocabularyPlan
    from evomerge.recipe.merge import MergeRecipe


def export_recipe(recipe: MergeRecipe, out: Path) -> None:
    """Write a recipe as our YAML."""
    write_output_file(out, to_yaml(recipe).encode())


def export_mergekit(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> tuple[str, ...]:
    """Write a recipe as mergekit YAML.

    Returns:
        What the user should know; see `mergekit_text`.

    Raises:
        RecipeError: mergekit cannot express it.
    """
    check_output_file(out)
    text, notes = mergekit_text(recipe, library)
    write_output_file(out, text.encode())
    return notes


def export_merged(
    recipe: MergeRecipe, library: SourceLibrary, out: Path, card: str | None = None
) -> VocabularyPlan | None:
    """Write the merged model, with both recipes beside the weights.

    Args:
        recipe: The recipe.
        library: Opens its models.
        out: The folder; must not exist or be empty.
        card: A model card to put beside the weights.

    Returns:
        The vocabulary of the merged model, if the recipe asks for one.
    """
    check_output_folder(out)
    # The files go with the model, so they must not depend on where the recipe was.
    recipe = with_absolute_paths(recipe, library.root)
    files = {"evomerge.yaml": to_yaml(recipe).encode()}
    # Not every recipe has a counterpart; ours is complete by itself.
    with suppress(RecipeError):
        files["mergekit_config.yml"] = mergekit_text(recipe, library)[0].encode()
    if card is not None:
        files["README.md"] = card.encode()
    return export_checkpoint(recipe, library, out, files=files)
