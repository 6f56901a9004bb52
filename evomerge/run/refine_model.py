"""Refines a model or a merge by itself, without a search, and writes what it has become."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints import check_output_folder, resolve_reference
from evomerge.checkpoints.adapted_model import AdaptedModel
from evomerge.errors import RecipeError
from evomerge.executors.placed import run_here
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.absolute import with_absolute_paths
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.refinement.distil import Distilled, distil
from evomerge.refinement.distillation import Distillation
from evomerge.refinement.teachers.ensemble import asked_of
from evomerge.refinement.texts.examples import read_examples
from evomerge.reporting.model_card import refined_card
from evomerge.run.folder import RunFolder
from evomerge.run.merges.export import export_merged
from evomerge.run.merges.merge import check_models, naming, read_file
from evomerge.run.preparation.students import (
    check_refinement,
    merge_students,
    models_of,
    student_groups,
    training_folder,
)
from evomerge.run.refine_run import estimate_teachers, read_refinement
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.recipe.refine import Refinement
    from evomerge.refinement.distillation import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinedModel:
    """A model that was refined.

    Attributes:
        training: The folder of the trainings, which hold adapters and courses.
        courses: How each student was trained, by its name.
    """

    training: Path
    courses: Mapping[str, dict[str, Any]]


def refine_model(
    student: str, file: Path, overrides: Sequence[str], out: Path, report: Report
) -> RefinedModel:
    """Distil teachers into a model, and write it.

    The weights that are written are those with the least loss on the texts that are set aside,
    those of the beginning included. A training that was cut off goes on where it was.

    Args:
        student: A model's folder, Hub id or adapter (`base+adapter`), or the file of a merge
            recipe.
        file: How to refine; it has to name the teachers.
        overrides: `path.to.key=value` texts for it.
        out: The folder to write; what is trained is kept beside it, in `OUT.training`.
        report: Told how far it is.

    Raises:
        EvomergeError: Anything that the user has to know; see `errors`.
    """
    check_output_folder(out)
    recipe = student_of(student)
    settings, teachers = _settings(recipe, file, overrides)
    training = out.with_name(f"{out.name}.training").resolve()
    done: dict[str, Distilled] = {}
    with RunFolder(training).locked():
        for name, group in student_groups(settings, teachers).items():
            work = Distillation(
                student=recipe,
                teachers=group,
                settings=settings,
                folder=training_folder(training, name, recipe.digest, settings),
                device="auto",
                dtype="auto",
                threads=len(os.sched_getaffinity(0)),
            )
            done[name] = run_here(partial(distil, work), _named(name, report))
    recipes = [each.recipe for each in done.values()]
    refined = recipes[0]
    if settings.mode == "pairwise":
        refined = merge_students(recipe, settings.operator, recipes)
    library = SourceLibrary(Path("/"), calibrate=Calibrator())
    courses = {name: each.course for name, each in done.items()}
    names = [each.label for each in teachers]
    card = refined_card(refined, recipe, names, list(courses.values()), out.name)
    export_merged(refined, library, out, card)
    return RefinedModel(training=training, courses=courses)


def student_of(student: str) -> MergeRecipe:
    """The recipe of a student, with absolute paths: a file's, or one that takes a model as it is.

    Raises:
        RecipeError: The file is wrong.
        ModelError: The model cannot be read.
        CompatibilityError: The models of the file do not fit together.
    """
    file = Path(student)
    if file.suffix in {".yaml", ".yml"}:
        read = read_file(file)
        with naming(file):
            check_models(read)
            _check_layers(read.recipe)
        return with_absolute_paths(read.recipe, read.library.root)
    reference = resolve_reference(student, root=Path.cwd())
    checkpoint = SourceLibrary(Path("/")).model(reference)
    base = checkpoint.base.reference if isinstance(checkpoint, AdaptedModel) else reference
    return MergeRecipe(base=base, sources=(Source(model=reference),), operator="linear")


def _check_layers(recipe: MergeRecipe) -> None:
    for part in ("stack", "tokenizer"):
        if getattr(recipe, part) is not None:
            raise RecipeError(
                f"{part}: a merge with one is not trained as it is; write it with evomerge merge, "
                "and refine that model"
            )


def estimate_model(student: str, file: Path, overrides: Sequence[str]) -> list[str]:
    """What the teachers' caches would hold, in lines; see `refine_model` and `estimate_run`."""
    return estimate_teachers(*_settings(student_of(student), file, overrides))


def _settings(
    recipe: MergeRecipe, file: Path, overrides: Sequence[str]
) -> tuple[Refinement, tuple[Teacher, ...]]:
    """How a student is refined, and by whom; mistakes show before anything is written."""
    sources = models_of(recipe.sources)
    settings = read_refinement(file, overrides, sources)
    teachers = settings.teachers or _sources(recipe, file)
    with naming(file):
        _check_control(settings)
        check_refinement(settings, recipe, teachers)
    asked_of(settings, teachers, read_examples(Path(settings.data.path)).examples)
    return settings, teachers


def _check_control(settings: Refinement) -> None:
    if settings.control and "control" in settings.model_fields_set:
        raise RecipeError(
            "control: true is for the winner of a run, whose items compare it with the refined "
            "model; a model by itself has none: write control: false"
        )


def _sources(recipe: MergeRecipe, file: Path) -> tuple[Teacher, ...]:
    """The models that a merge was made of."""
    models = {source.model: source.label for source in recipe.sources if source.model}
    if len(models) < 2:
        raise RecipeError(
            f"{file}: teachers: missing, and a student that is no merge has no sources to be its "
            "teachers; name the models to learn from"
        )
    return tuple(Teacher(model=model, name=label) for model, label in models.items())


def _named(name: str, report: Report) -> Report:
    def named(what: str, done: int, total: int) -> None:
        report(f"{name}: {what}", done, total)

    return named
