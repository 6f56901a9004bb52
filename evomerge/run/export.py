"""Hands a candidate out: as our recipe, as mergekit's, or as a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from evomerge.checkpoints import check_family, write_atomically
from evomerge.errors import CompatibilityError, RecipeError
from evomerge.layout import layer_count
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.check import check_operator
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.load import read_text, validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import from_mergekit, is_mergekit
from evomerge.recipe.mergekit.write import to_mergekit
from evomerge.run.prepare import describe


def read_merge_recipe(document: yaml.Document, library: SourceLibrary) -> MergeRecipe:
    """Read a merge recipe, ours or mergekit's.

    Raises:
        RecipeError: It is wrong.
        ModelError: A mergekit recipe's model cannot be read; its layers have to be counted.
    """
    if not is_mergekit(document):
        return validate(MergeRecipe, document)
    return from_mergekit(document, _count_layers(document, library))


def export_recipe(recipe: MergeRecipe, out: Path) -> None:
    """Write a recipe as our YAML."""
    _write_new(out, to_yaml(recipe))


def export_mergekit(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> tuple[str, ...]:
    """Write a recipe as mergekit YAML.

    Returns:
        Notes on how mergekit's result differs; none when it is the same.

    Raises:
        RecipeError: mergekit cannot express it.
    """
    text, notes = mergekit_text(recipe, library)
    _write_new(out, text)
    return notes


def export_merged(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> None:
    """Write the merged model, with both recipes beside the weights."""
    files = {"evomerge.yaml": to_yaml(recipe).encode()}
    # Not every recipe has a counterpart; ours is complete by itself.
    with suppress(RecipeError):
        files["mergekit_config.yml"] = mergekit_text(recipe, library)[0].encode()
    export_checkpoint(recipe, library, out, files=files)


def mergekit_text(recipe: MergeRecipe, library: SourceLibrary) -> tuple[str, tuple[str, ...]]:
    """A recipe as mergekit YAML, and notes on how its result differs."""
    signatures = library.signatures(recipe.base)
    dtype = recipe.dtype
    if dtype == "base":
        stored = {
            str(d).removeprefix("torch.") for d, _ in signatures.values() if d.is_floating_point
        }
        if len(stored) != 1:
            raise RecipeError(
                f"the base stores tensors in {' and '.join(sorted(stored))}; mergekit writes one "
                "dtype, so choose one with dtype in the recipe"
            )
        dtype = stored.pop()  # type: ignore[assignment]
    written = to_mergekit(recipe, signatures, dtype)
    return to_yaml(written.document), written.notes


def _models(recipe: MergeRecipe) -> list[str]:
    """References of all models that a recipe merges, those inside its candidates included."""
    found: list[str] = []
    for source in recipe.sources:
        if source.model is not None:
            found.append(source.model)
        elif source.recipe is not None:
            found += [source.recipe.base, *_models(source.recipe)]
    return [reference for reference in dict.fromkeys(found) if reference != recipe.base]


def _count_layers(document: yaml.Document, library: SourceLibrary) -> int:
    reference = document.data.get("base_model") or _first_model(document.data)
    # A document that names no model as it should is refused when it is read.
    return layer_count(library.model(reference).headers) if isinstance(reference, str) else 1


def _first_model(node: Any) -> object:
    if isinstance(node, dict):
        return node.get("model") or _first_model(list(node.values()))
    if isinstance(node, list):
        return next((found for entry in node if (found := _first_model(entry))), None)
    return None


def _write_new(out: Path, text: str) -> None:
    if out.exists():
        raise RecipeError(f"{out}: exists already; give another --out")
    write_atomically(out, text.encode())


def merge_file(file: Path, out: Path) -> list[str]:
    """Merge what a recipe file describes, after checking its models.

    Returns:
        Warnings.

    Raises:
        RecipeError: The recipe is wrong, or its models do not fit together.
        MergeError: A tensor cannot be merged.
        ModelError: A model cannot be read, or `out` cannot be written.
    """
    document = yaml.parse(read_text(file), str(file))
    # Paths start where the format's users expect them to.
    root = Path.cwd() if is_mergekit(document) else file.resolve().parent
    library = SourceLibrary(root)
    recipe = read_merge_recipe(document, library)
    check_operator(recipe)
    findings = check_family(
        library.model(recipe.base),
        [library.model(reference) for reference in _models(recipe)],
    )
    errors = [describe(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise CompatibilityError("\n".join(errors))
    export_merged(recipe, library, out)
    return [describe(finding) for finding in findings]
