"""Merges what a recipe file describes, ours or mergekit's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoints import check_family
from evomerge.errors import CompatibilityError, MergeError, RecipeError
from evomerge.layout import layer_count
from evomerge.merging.sources import SourceLibrary
from evomerge.merging.vocabulary.alignment import align
from evomerge.merging.vocabulary.changes import VocabularyChange, list_changes
from evomerge.recipe import yaml
from evomerge.recipe.check import check_operator
from evomerge.recipe.lineage import ancestry
from evomerge.recipe.load import read_text, validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.entries import FLAG
from evomerge.recipe.mergekit.read import from_mergekit, is_mergekit
from evomerge.run.merges.export import export_merged
from evomerge.run.preparation.prepare import describe
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.checkpoints import Checkpoint, Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecipe:
    """What a recipe file describes.

    Attributes:
        recipe: The recipe.
        library: Opens its models.
        notes: What its user should know.
    """

    recipe: MergeRecipe
    library: SourceLibrary
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What is to be said of a merge that is done.

    Attributes:
        notes: Warnings.
        vocabulary: What became of the models' tokens; empty if the base's vocabulary was kept.
    """

    notes: tuple[str, ...]
    vocabulary: tuple[VocabularyChange, ...]


def read_file(file: Path, *, compat: bool = False, seed: int | None = None) -> FileRecipe:
    """Read a merge recipe, ours or mergekit's.

    Args:
        file: The YAML file; mergekit's may have several documents.
        compat: Make mergekit's bytes, from a file of mergekit's.
        seed: Seeds stochastic methods of a file of mergekit's.

    Raises:
        RecipeError: It is wrong.
        ModelError: A mergekit recipe's model cannot be read; its layers have to be counted.
    """
    documents = yaml.parse_all(read_text(file), str(file))
    if not any(map(is_mergekit, documents)):
        if compat or seed is not None:
            option = FLAG if compat else "--seed"
            raise RecipeError(f"{file}: is no mergekit recipe, so {option} means nothing here")
        document = yaml.parse(read_text(file), str(file))
        return FileRecipe(
            recipe=validate(MergeRecipe, document),
            library=SourceLibrary(file.resolve().parent, calibrate=Calibrator()),
        )
    # Paths start where the format's users expect them to.
    library = SourceLibrary(Path.cwd())

    def layers(model: str) -> int:
        return layer_count(library.model(model).headers)

    reading = from_mergekit(documents, layers, compat=compat, seed=seed or 0)
    return FileRecipe(recipe=reading.recipe, library=library, notes=reading.notes)


def merge_file(file: Path, out: Path, *, compat: bool = False, seed: int | None = None) -> Merged:
    """Merge what a recipe file describes, after checking its models.

    Args:
        file: See `read_file`.
        out: Where the merged model goes.
        compat: See `read_file`.
        seed: See `read_file`.

    Raises:
        RecipeError: The recipe is wrong, or its models do not fit together.
        MergeError: A tensor cannot be merged.
        ModelError: A model cannot be read.
        OutputError: `out` is taken or cannot be written; DiskFullError if the disk is full.
    """
    read = read_file(file, compat=compat, seed=seed)
    with naming(file):
        notes = check_models(read)
        vocabulary = export_merged(read.recipe, read.library, out)
    changes = list_changes(vocabulary) if vocabulary else []
    return Merged(notes=(*read.notes, *notes), vocabulary=tuple(changes))


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the recipe's file in what is wrong with the recipe.

    Raises:
        RecipeError: It is wrong.
        MergeError: It cannot be merged.
    """
    try:
        yield
    except (RecipeError, MergeError) as error:
        lines = str(error).splitlines()
        raise type(error)("\n".join(f"{file}: {line}" for line in lines)) from error


def check_models(read: FileRecipe) -> list[str]:
    """Check a recipe's operator and models, from headers.

    Returns:
        Warnings.

    Raises:
        RecipeError: The operator or its parameters are wrong.
        CompatibilityError: The models do not fit together.
        ModelError: A model cannot be read.
    """
    check_operator(read.recipe)
    findings = _findings(read.recipe, read.library)
    errors = [describe(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise CompatibilityError("\n".join(errors))
    return list(map(describe, findings))


def _findings(recipe: MergeRecipe, library: SourceLibrary) -> list[Finding]:
    references = [r for r in dict.fromkeys(_models(recipe)) if r != recipe.base]
    models: Sequence[Checkpoint] = [library.model(r) for r in (recipe.base, *references)]
    if recipe.tokenizer is not None:
        aligned = align(recipe, library.model).models
        models = [aligned[reference] for reference in (recipe.base, *references)]
    # The plan of a stack checks that its layers are there and fit.
    return check_family(
        models[0],
        models[1:],
        one_tokenizer=recipe.tokenizer is None,
        one_depth=not _stacks(recipe),
    )


def _models(recipe: MergeRecipe) -> Iterator[str]:
    """References of all models that a recipe merges, those inside its candidates included."""
    within = ancestry([recipe])
    yield from (each.base for each in within)
    for each in (recipe, *within):
        yield from (source.model for source in each.sources if source.model is not None)


def _stacks(recipe: MergeRecipe) -> bool:
    return any(each.stack is not None for each in (recipe, *ancestry([recipe])))
