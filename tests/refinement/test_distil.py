"""A student learns what its teachers know."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from students import distillation, never, quiet, tensors

from evomerge.errors import EvaluationError, RecipeError
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.distil import distil

if TYPE_CHECKING:
    from pathlib import Path


def teachers(family: Path, *names: str) -> tuple[Teacher, ...]:
    return tuple(Teacher(model=str(family / name), name=name) for name in names)


DISTIL = {"distillation": 1.0, "cross_entropy": 0.0}


def test_a_student_comes_nearer_to_its_teacher(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "student", teachers(family, "one"), loss=DISTIL)
    losses = distil(work, quiet, never).course["validation_losses"]
    assert losses[-1] < 0.7 * losses[0]


def test_a_student_that_is_its_teacher_stays_as_it_is(family: Path, tmp_path: Path) -> None:
    work = distillation(
        family, tmp_path / "student", teachers(family, "one"), loss=DISTIL, cache={"k": 13}
    )
    one = work.student.sources[0].model_copy(update={"parameters": {"weight": 1.0}})
    work = replace(work, student=work.student.model_copy(update={"sources": (one,)}))
    found = distil(work, quiet, never)
    assert abs(found.course["losses"][0]) < 1e-4
    before, after = tensors(work.student), tensors(found.recipe)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_student_of_one_teacher_of_several_learns_the_texts_of_its_domains(
    family: Path, tmp_path: Path
) -> None:
    work = distillation(family, tmp_path / "s", teachers(family, "one"), mode="pairwise")
    assert distil(work, quiet, never).course["texts"] == 30
    everything = distillation(
        family, tmp_path / "t", teachers(family, "one"), mode="pairwise", fuse="min_ce"
    )
    assert distil(everything, quiet, never).course["texts"] == 60


def test_a_text_without_a_teacher_is_refused(family: Path, tmp_path: Path) -> None:
    both = teachers(family, "one", "three")
    work = distillation(family, tmp_path / "student", both, fuse="by_domain")
    message = r"texts\.jsonl: line 2: fuse: by_domain: .* domain 'two' has no teacher"
    with pytest.raises(RecipeError, match=message):
        distil(work, quiet, never)


def test_layers_that_the_student_has_not_are_refused_before_a_teacher_is_asked(
    family: Path, tmp_path: Path
) -> None:
    asked: list[str] = []
    one = teachers(family, "one")
    work = distillation(family, tmp_path / "student", one, train={"layers": [5, 9]})
    with pytest.raises(RecipeError, match=r"\[5, 9\] holds no layer of the student.* 0 to 1;"):
        distil(work, lambda what, *_: asked.append(what), never)
    assert not asked


def test_a_teacher_that_predicts_nan_is_named(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "one", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})
    work = distillation(family, tmp_path / "student", teachers(tmp_path, "broken"))
    with pytest.raises(EvaluationError, match=r"broken: .*NaN"):
        distil(work, quiet, never)
