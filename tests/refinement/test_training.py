"""A student is trained, and a training that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import errno
import functools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from students import distil_until, distillation, never, quiet, tensors, write_texts
from transformers import Trainer

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import DiskFullError, EvaluationError, RecipeError, RunError
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.distil import Distilled, distil
from evomerge.refinement.training.student import Student

if TYPE_CHECKING:
    from evomerge.refinement.distillation import Distillation


@pytest.fixture(scope="module")
def trained(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """What came of a training on texts alone that nothing disturbed."""
    work = distillation(family, tmp_path_factory.mktemp("whole") / "student")
    return distil(work, quiet, never)


@pytest.fixture(scope="module")
def whole(trained: Distilled) -> dict[str, Any]:
    """The course of that training."""
    return trained.course


def adapter(found: Distilled) -> bytes:
    """The weights that were trained."""
    reference = str(found.recipe.sources[1].model)
    return Path(reference.rpartition("+")[2], "adapter_model.safetensors").read_bytes()


def test_texts_are_learned(whole: dict[str, Any]) -> None:
    losses = whole["validation_losses"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_student_that_has_been_trained_is_not_trained_again(
    family: Path, tmp_path: Path
) -> None:
    work = distillation(family, tmp_path / "student")
    first = distil(work, quiet, never)
    assert distil(work, quiet, lambda: True) == first


@pytest.mark.parametrize("steps", [1, 5, 18])
def test_a_training_that_was_stopped_goes_on_to_the_same_losses_bit_for_bit(
    family: Path, tmp_path: Path, whole: dict[str, Any], steps: int
) -> None:
    work = distillation(family, tmp_path / "student")
    with pytest.raises(RunError, match="it can be continued"):
        distil_until(work, steps)
    course = distil(work, quiet, never).course
    assert course["losses"] == whole["losses"]
    assert course["validation_losses"] == whole["validation_losses"]


@pytest.mark.parametrize("what", ["lora", "coefficients"])
@pytest.mark.parametrize("before", [0, 1], ids=["at its end", "before its end"])
def test_a_training_that_lost_patience_is_over_also_where_it_was_stopped(
    family: Path, tmp_path: Path, what: str, before: int
) -> None:
    def work(name: str) -> Distillation:
        train = {"what": what, "rate": 0.5, "patience": 3, "checkpoints": 100}
        loss = {"distillation": 1.0, "cross_entropy": 0.0}
        one = Teacher(model=str(family / "one"), name="one")
        found = distillation(family, tmp_path / name, (one,), loss=loss, train=train)
        # There is nothing to be gained by who is like its teacher.
        source = found.student.sources[0].model_copy(update={"parameters": {"weight": 1.0}})
        student = found.student.model_copy(update={"sources": (source,)})
        return replace(found, student=student)

    whole = distil(work("whole"), quiet, never).course
    assert len(whole["validation_losses"]) == whole["steps"] + 1 < 8
    with pytest.raises(RunError, match="it can be continued"):
        distil_until(work("student"), whole["steps"] - before)
    course = distil(work("student"), quiet, never).course
    assert course | {"seconds": 0} == whole | {"seconds": 0}


def test_the_result_is_a_recipe_of_the_merge_and_an_adapter_of_low_rank(
    family: Path, tmp_path: Path
) -> None:
    work = distillation(family, tmp_path / "student", train={"rank": 2})
    recipe = distil(work, quiet, never).recipe
    merge, update = recipe.sources
    assert merge.recipe == work.student
    assert update.model is not None
    checkpoint = open_checkpoint(update.model, root=Path("/"))
    before, after = tensors(work.student), tensors(recipe)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    for name in changed:
        delta = checkpoint.read(name) - open_checkpoint(recipe.base, root=Path("/")).read(name)
        assert torch.linalg.matrix_rank(delta, atol=1e-4) <= 2
        torch.testing.assert_close(
            after[name].float(), before[name].float() + delta, atol=0.01, rtol=0.01
        )


def test_only_the_layers_that_are_asked_for_are_trained(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "student", train={"layers": [1, 2]})
    recipe = distil(work, quiet, never).recipe
    before, after = tensors(work.student), tensors(recipe)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layers.1." in name for name in changed)


def test_texts_that_have_changed_since_the_training_began_are_refused(
    family: Path, tmp_path: Path
) -> None:
    work = distillation(family, tmp_path / "student")
    with pytest.raises(RunError, match="it can be continued"):
        distil_until(work, 2)
    texts = tmp_path / "texts.jsonl"
    texts.write_text(texts.read_text().replace("red", "sea"))
    with pytest.raises(RunError, match=r"texts\.jsonl, the texts: has changed .*, from \w+ to \w"):
        distil(work, quiet, never)


def test_texts_that_are_not_there_are_named(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "student", data={"path": str(tmp_path / "nowhere")})
    with pytest.raises(RecipeError, match=r"nowhere: cannot be read: No such file"):
        distil(work, quiet, never)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_texts_with_nothing_to_predict_have_no_part_in_the_validation(
    family: Path, tmp_path: Path, share: float
) -> None:
    texts = [{"prompt": f"{n} " * 20, "completion": "red"} for n in range(60)]
    texts += [{"prompt": f"{n} ", "completion": "red"} for n in range(2)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, texts)))
    data = {"path": str(file), "max_tokens": 20, "validation": share}
    work = distillation(family, tmp_path / "student", data=data, train={"epochs": 1})
    course = distil(work, quiet, never).course
    assert course["dropped"] == 60
    assert (course["supervised"], len(course["validation_losses"])) == (3, 2)


def test_a_step_reads_no_more_than_its_tokens_however_large_a_pass_may_be(
    family: Path, tmp_path: Path
) -> None:
    courses = [
        distil(
            distillation(family, tmp_path / str(tokens), train={"pass_tokens": tokens}),
            quiet,
            never,
        ).course
        for tokens in (256, 4096)
    ]
    assert courses[0]["losses"] == courses[1]["losses"]
    assert courses[1]["tokens"] <= 256 * courses[1]["steps"]


def test_a_part_to_validate_on_that_would_be_empty_is_refused_before_a_teacher_is_asked(
    family: Path, tmp_path: Path
) -> None:
    domains = [{"text": "red and blue", "domain": name} for name in ("one", "two")]
    texts = [domains[0], domains[1] | {"text": "green"}, {"text": "r", "domain": "two"}]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, texts)))
    asked: list[str] = []
    one = (Teacher(model=str(family / "one"), name="one"),)
    work = distillation(family, tmp_path / "student", one, data={"path": str(file)})
    with pytest.raises(RecipeError, match=r"data\.validation: 0\.1 sets no text aside of 2 with"):
        distil(work, lambda what, *_: asked.append(what), never)
    assert not asked


@pytest.mark.parametrize("what", ["lora", "full", "coefficients"])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_loss_that_is_not_finite_ends_the_training_in_one_line_and_nothing_is_kept(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, share: float
) -> None:
    data = {"path": str(write_texts(tmp_path / "texts.jsonl")), "validation": share}
    work = distillation(family, tmp_path / "student", data=data, train={"what": what})
    forward = Student.forward
    steps = iter(range(1000))

    @functools.wraps(forward)
    def overflowing(self: Student, **given: Any) -> dict[str, torch.Tensor]:
        found = forward(self, **given)
        # The second pass of the second step, whatever is compared between them.
        late = torch.is_grad_enabled() and next(steps) >= 3
        return {"loss": found["loss"] * float("nan")} if late else found

    monkeypatch.setattr(Student, "forward", overflowing)
    with pytest.raises(EvaluationError, match=r"^the loss is nan at step 2; train with a lower"):
        distil(work, quiet, never)
    left = {each.name for each in (tmp_path / "student").iterdir()}
    assert left <= {"contents.json", "checkpoints"}


@pytest.mark.parametrize("what", ["lora", "coefficients"])
def test_a_student_that_overflows_before_it_is_trained_is_told_from_one_that_was_trained_too_fast(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    @functools.wraps(Student.forward)
    def overflowing(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(torch.inf)}

    monkeypatch.setattr(Student, "forward", overflowing)
    work = distillation(family, tmp_path / "student", train={"what": what})
    with pytest.raises(EvaluationError, match=r"^the validation loss is inf before anything wa"):
        distil(work, quiet, never)


def test_a_student_that_was_replaced_is_noticed(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family, tmp_path / "family")
    work = distillation(tmp_path / "family", tmp_path / "student")
    with pytest.raises(RunError, match="the training was stopped"):
        distil_until(work, 1)
    shutil.rmtree(tmp_path / "family" / "two")
    shutil.copytree(family / "three", tmp_path / "family" / "two")
    with pytest.raises(RunError, match=r"two, of the student: has changed since the training"):
        distil(work, quiet, never)


def test_of_several_changes_the_first_by_name_is_told(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "student")
    with pytest.raises(RunError, match="the training was stopped"):
        distil_until(work, 1)
    file = tmp_path / "student" / "contents.json"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), "other")))
    first = min(json.loads(file.read_text()))
    with pytest.raises(RunError, match=rf"^{re.escape(first)}: has changed since the training"):
        distil(work, quiet, never)


def test_a_damaged_file_says_how_to_train_again(family: Path, tmp_path: Path) -> None:
    work = distillation(family, tmp_path / "student", train={"epochs": 1})
    distil(work, quiet, never)
    (tmp_path / "student" / "course.json").write_text("")
    with pytest.raises(RunError, match=r"course\.json: is damaged; remove .*student to train"):
        distil(work, quiet, never)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")],
)
def test_a_full_disk_is_one_line_and_the_training_goes_on_from_the_checkpoint_before(
    family: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: Distilled,
    error: Exception,
) -> None:
    save = Trainer._save_checkpoint
    saved: list[int] = []

    def full(self: Any, *given: Any) -> None:
        save(self, *given)
        saved.append(self.state.global_step)
        if len(saved) == 2:
            for file in self._saving.glob("*/*"):
                file.write_bytes(file.read_bytes()[:100])
            raise error

    work = distillation(family, tmp_path / "student")
    with monkeypatch.context() as patched:
        patched.setattr("transformers.Trainer._save_checkpoint", full)
        with pytest.raises(DiskFullError, match="student: no space is left on the disk"):
            distil(work, quiet, never)
    reported: list[int] = []
    found = distil(work, lambda _, done, __: reported.append(done), never)
    assert reported == [*range(saved[0] + 1, found.course["steps"] + 1)]
    assert found.course["losses"] == trained.course["losses"]
    assert adapter(found) == adapter(trained)


@pytest.mark.parametrize("what", ["lora", "coefficients"])
def test_tokens_are_those_that_were_read(family: Path, tmp_path: Path, what: str) -> None:
    """A rate that ruins the student ends the training at its first comparison."""
    train = {"what": what, "rate": 5.0, "epochs": 8, "checkpoints": 100, "patience": 1}
    course = distil(distillation(family, tmp_path / "student", train=train), quiet, never).course
    assert 0 < course["tokens"] <= 256 * course["steps"] < 256 * 20
    assert 0 < course["supervised"] < course["tokens"]


def test_asking_the_teachers_ends_when_it_is_to_stop_and_goes_on_later(
    family: Path, tmp_path: Path
) -> None:
    teachers = (Teacher(model=str(family / "one"), name="one"),)
    told: list[tuple[str, int, int]] = []
    work = distillation(family, tmp_path / "student", teachers)
    with pytest.raises(RunError, match=r"student: the training was stopped; it can be continued"):
        distil(work, lambda *news: told.append(news), lambda: bool(told))
    assert [what for what, _, _ in told] == ["what one predicts"]
    continued = distil(work, quiet, never)
    whole = distil(distillation(family, tmp_path / "whole", teachers), quiet, never)
    assert adapter(continued) == adapter(whole)
