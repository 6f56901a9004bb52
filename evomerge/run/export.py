"""Hands a candidate out: as our recipe, as mergekit's, or as a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from evomerge.checkpoints import check_output_file, check_output_folder, write_output_file
from evomerge.errors import RecipeError
from evomerge.merging.export import export_checkpoint
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.mergekit.write import to_mergekit

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
        Notes on how mergekit's result differs; none when it is the same.

    Raises:
        RecipeError: mergekit cannot express it.
    """
    check_output_file(out)
    text, notes = mergekit_text(recipe, library)
    write_output_file(out, text.encode())
    return notes


def export_merged(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> VocabularyPlan | None:
    """Write the merged model, with both recipes beside the weights.

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
    return export_checkpoint(recipe, library, out, files=files)


def mergekit_text(recipe: MergeRecipe, library: SourceLibrary) -> tuple[str, tuple[str, ...]]:
    """A recipe as mergekit YAML, and notes on how its result differs."""
    signatures = library.signatures(recipe.base)
    dtype: str = recipe.dtype
    if dtype == "base" and recipe.mergekit_compat is None:
        stored = {
            str(d).removeprefix("torch.") for d, _ in signatures.values() if d.is_floating_point
        }
        if len(stored) != 1:
            raise RecipeError(
                f"the base stores tensors in {' and '.join(sorted(stored))}; mergekit writes one "
                "dtype, so choose one with dtype in the recipe"
            )
        dtype = stored.pop()
    # Nested recipes are refused, so the names of their tensors do not matter.
    sources = [library.signatures(s.model) if s.model else signatures for s in recipe.sources]
    written = to_mergekit(recipe, signatures, dtype, sources if recipe.stack else ())
    return to_yaml(written.document), written.notes
