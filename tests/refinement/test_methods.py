"""Weights, coefficients or layers: each can be trained, and what comes out is a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from students import distil_until, distillation, never, quiet, tensors

from evomerge.errors import RecipeError, RunError
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.refine import Training
from evomerge.refinement.distil import distil
from evomerge.refinement.training.coefficients import CoefficientTraining
from evomerge.refinement.training.setup import set_up

DISTIL = {"distillation": 1.0, "cross_entropy": 0.0}


def one(family: Path) -> tuple[Teacher, ...]:
    return (Teacher(model=str(family / "one"), name="one"),)


def test_all_weights_are_trained_and_written_as_a_model(family: Path, tmp_path: Path) -> None:
    train = {"what": "full", "rate": 1e-3}
    work = distillation(family, tmp_path / "student", one(family), loss=DISTIL, train=train)
    found = distil(work, quiet, never)
    losses = found.course["validation_losses"]
    assert min(losses) < 0.8 * losses[0]
    assert found.recipe.operator == "linear"
    before, after = tensors(work.student), tensors(found.recipe)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "proj" in name)


@pytest.mark.parametrize(("what", "kept"), [("full", "float32"), ("lora", "bfloat16")])
def test_weights_that_are_trained_are_kept_in_float32_and_passes_compute_in_bfloat16(
    family: Path, tmp_path: Path, what: str, kept: str
) -> None:
    work = distillation(family, tmp_path / "student", one(family), train={"what": what})
    work = replace(work, dtype="bfloat16")
    setup = set_up(work, SourceLibrary(Path("/")), quiet, never)
    assert {each.dtype for each in setup.model.parameters()} == {getattr(torch, kept)}
    student, (passes, _) = setup.student(), setup.passes()
    seen = set()
    for module in setup.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, __, found: seen.add(found.dtype))
    student(**passes[0])
    assert seen == {torch.bfloat16}


def test_coefficients_alone_are_trained_and_the_recipe_stays_task_arithmetic(
    family: Path, tmp_path: Path
) -> None:
    train = {"what": "coefficients", "rate": 0.05, "epochs": 4}
    work = distillation(family, tmp_path / "student", one(family), loss=DISTIL, train=train)
    found = distil(work, quiet, never)
    losses = found.course["validation_losses"]
    assert min(losses) < 0.5 * losses[0]
    assert found.recipe.operator == "task_arithmetic"
    # The teacher is the first source, so its weights rise and the other's fall.
    teacher, other = (each.parameters["weight"] for each in found.recipe.sources)
    assert isinstance(teacher, tuple)
    assert isinstance(other, tuple)
    assert sum(float(rule.value) for rule in teacher) > 0.6 * len(teacher)
    assert sum(float(rule.value) for rule in other) < 0.4 * len(other)


def test_passes_are_read_where_the_student_is(tmp_path: Path) -> None:
    seen = set()

    class Elsewhere:
        model = SimpleNamespace(device=torch.device("meta"))

        def __call__(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.update(each.device.type for each in given.values())
            return {"loss": torch.tensor(1.0)}

    mixture = SimpleNamespace(start=lambda: torch.ones(1, 1), write=lambda _: None)
    training = CoefficientTraining(mixture, Elsewhere(), Training(), 0.1, tmp_path)  # type: ignore[arg-type]
    training.run([], [{"ids": torch.zeros(1)}], lambda *_: None, never)  # type: ignore[arg-type]
    assert seen == {"meta"}


@pytest.mark.parametrize("steps", [1, 5])
def test_coefficients_that_were_stopped_go_on_bit_for_bit(
    family: Path, tmp_path: Path, steps: int
) -> None:
    train = {"what": "coefficients"}
    whole = distil(
        distillation(family, tmp_path / "whole", one(family), train=train), quiet, never
    )
    work = distillation(family, tmp_path / "cut", one(family), train=train)
    with pytest.raises(RunError, match="it can be continued"):
        distil_until(work, steps)
    found = distil(work, quiet, never)
    assert found.course["losses"] == whole.course["losses"]
    assert found.recipe == whole.recipe


def test_coefficients_are_learned_of_task_arithmetic_only(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "s", one(family), train={"what": "coefficients"})
    student = work.student.model_copy(update={"operator": "ties"})
    with pytest.raises(RecipeError, match="operator: ties, but coefficients are learned of"):
        distil(replace(work, student=student), quiet, never)


def test_layers_are_fitted_to_those_of_the_sources(family: Path, tmp_path: Path) -> None:
    train = {"what": "layerwise", "epochs": 2, "rate": 0.05}
    work = distillation(family, tmp_path / "student", one(family), train=train)
    found = distil(work, quiet, never)
    before, after = tensors(work.student), tensors(found.recipe)
    assert any(not torch.equal(before[name], after[name]) for name in before)
