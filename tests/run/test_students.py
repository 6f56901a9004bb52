"""Promise: what a refinement cannot do is found before anything is trained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.refine import Refinement
from evomerge.run.preparation.students import check_refinement, training_folder

TEACHERS = (Teacher(model="one"), Teacher(model="two"))
STUDENT = MergeRecipe(base="base", sources=(Source(model="one"),), operator="linear")


def refinement(**given: Any) -> Refinement:
    return Refinement.model_validate({"data": {"path": "texts.jsonl"}, **given})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "pairwise", "operator": "nosuch"}, "the merge of the students: operator"),
        ({"mode": "pairwise", "operator": "slerp"}, "the merge of the students: "),
        (
            {"train": {"what": "coefficients"}},
            "coefficients is for merges by task_arithmetic, and",
        ),
        ({"train": {"what": "layerwise"}}, "and the student is none; take lora or full"),
        (
            {"cache": None, "loss": {"kind": "kl"}, "fuse": "sum"},
            "fuse: sum of 2 teachers beside the student; allowed: ",
        ),
    ],
)
def test_a_refinement_that_cannot_end_does_not_begin(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        check_refinement(refinement(**settings), STUDENT, TEACHERS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{}, {"mode": "pairwise"}, {"cache": None, "loss": {"kind": "kl"}, "fuse": "dynamic"}],
)
def test_a_refinement_that_can_be_done_is_not_refused(settings: dict[str, Any]) -> None:
    check_refinement(refinement(**settings), STUDENT, TEACHERS)


def test_students_settings_and_names_that_differ_have_folders_that_differ() -> None:
    parent, plain = Path("/run/refined"), refinement()
    folders = {
        training_folder(parent, name, student, settings)
        for name in ("refined by a b", "refined by a-b", "refined by ../../evil")
        for student in ("one", "two")
        for settings in (plain, refinement(train={"rate": 0.1}))
    }
    assert len(folders) == 12
    assert {str(Path(each).resolve().parent) for each in folders} == {"/run/refined"}


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("what", ["lora", "full"])
def test_what_transformers_trains_is_on_the_first_gpu_it_sees(what: str, device: str) -> None:
    settings = refinement(train={"what": what})
    if device != "cuda:1":
        check_refinement(settings, STUDENT, TEACHERS, device)
        return
    with pytest.raises(RecipeError, match=r"^device: cuda:1 .* run with CUDA_VISIBLE_DEVICES=1$"):
        check_refinement(settings, STUDENT, TEACHERS, device)


@pytest.mark.parametrize(("count", "refused"), [("2", True), ("1", False), ("", False)])
def test_a_refinement_is_not_started_by_a_launcher_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, count: str, refused: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    expected = pytest.raises(RecipeError, match=r"WORLD_SIZE=2: .* trained by one process")
    with expected if refused else nullcontext():
        check_refinement(refinement(), STUDENT, TEACHERS)
