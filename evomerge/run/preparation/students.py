"""The students of a refinement: what each learns from, where it is trained, what they become."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blake3 import blake3

from evomerge.cache import as_file_name
from evomerge.errors import RecipeError
from evomerge.recipe.check import check_own_operator
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.merge import MergeRecipe, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from evomerge.recipe.refine import Refinement
    from evomerge.recipe.search import SearchRecipe

REFINED = "refined"
OF_COEFFICIENTS = "task_arithmetic"
"""The operator whose coefficients can be trained."""


def teachers_of(recipe: SearchRecipe, settings: Refinement) -> tuple[Teacher, ...]:
    """The teachers that are named, or else the sources of the search."""
    return settings.teachers or tuple(
        Teacher(model=source.model or "", name=source.label) for source in recipe.sources
    )


def models_of(sources: Iterable[Source]) -> dict[str, str]:
    """The models among the sources of a merge or a search, by their names."""
    return {each.label: each.model for each in sources if each.model}


def student_groups(
    settings: Refinement, teachers: tuple[Teacher, ...]
) -> dict[str, tuple[Teacher, ...]]:
    """The students that learn from teachers, by their names, each with its own."""
    if settings.mode == "pairwise":
        return {f"{REFINED} by {teacher.label}": (teacher,) for teacher in teachers}
    return {REFINED: teachers}


def training_folder(parent: Path, name: str, student: str, settings: Refinement) -> str:
    """Where a student is trained: another one, or other settings, are another training.

    Args:
        parent: The folder of trainings.
        name: What the student becomes.
        student: The digest of what it is.
        settings: How it is trained.
    """
    key = blake3(f"{name} {student} {settings.model_dump_json()}".encode()).hexdigest()
    return str(parent / f"{as_file_name(name)}-{key[:8]}")


def merge_students(
    before: MergeRecipe, operator: str, recipes: Sequence[MergeRecipe]
) -> MergeRecipe:
    """The merge of what a student has become; task vectors are measured from what it was."""
    return MergeRecipe(
        base=before.base,
        base_recipe=before,
        sources=tuple(Source(recipe=each, name=f"{n}") for n, each in enumerate(recipes, 1)),
        operator=operator,
        dtype=before.dtype,
    )


def check_refinement(
    settings: Refinement,
    student: MergeRecipe,
    teachers: tuple[Teacher, ...],
    device: str = "auto",
) -> None:
    """Find what can be found before anything is trained.

    Raises:
        RecipeError: The students could not be merged, what is to be trained is nothing that the
            student has, teachers cannot be fused, the trainer cannot be on the device, or this is
            one of several processes that a launcher has started.
    """
    if settings.mode == "pairwise":
        merged = merge_students(student, settings.operator, [student] * len(teachers))
        try:
            check_own_operator(merged)
        except RecipeError as error:
            raise RecipeError(f"the merge of the students: {error}") from error
    what = settings.train.what
    if what in {"coefficients", "layerwise"} and student.operator != OF_COEFFICIENTS:
        raise RecipeError(
            f"train.what: {what} is for merges by {OF_COEFFICIENTS}, and the student is none; "
            "take lora or full"
        )
    if what in {"lora", "full"} and device.startswith("cuda:") and device != "cuda:0":
        number = device.removeprefix("cuda:")
        raise RecipeError(
            f"device: {device} with train.what: {what}, which trains on the first GPU that "
            f"it sees; write cuda, and run with CUDA_VISIBLE_DEVICES={number}"
        )
    settings.check_live_fusion(len(teachers))
    _check_alone()


def _check_alone() -> None:
    """Refuse launchers of several processes: each would wait for others that do the same work."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count not in {"", "0", "1"}:
        raise RecipeError(
            f"WORLD_SIZE={count}: a refinement is trained by one process, on one GPU; start "
            "evomerge by itself, not by accelerate launch or torchrun, or unset WORLD_SIZE"
        )
