"""Promise: of a teacher with further tokens, a student learns what is said of its own alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from students import asked, distillation, never, quiet, targets_of
from tiny_family import load_tensors

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.distil import distil
from evomerge.refinement.teachers.ensemble import open_ensemble

if TYPE_CHECKING:
    from evomerge.refinement.distillation import Distillation
    from evomerge.refinement.predictions.targets import Targets

SHARED = 257
"""Tokens of the family."""

LIKELY = 255
"""One of them, with up to an eighth of the probability."""


def model_with(one: Path, folder: Path, *added: str) -> Teacher:
    """A model with one more row in its head, as likely as `LIKELY`, and some tokens more."""
    shutil.copytree(one, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    tensors = load_tensors(one)
    rows = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = torch.cat([rows, rows[LIKELY : LIKELY + 1]])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": SHARED + 1}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"] += [
        {"id": SHARED + number, "content": token, "special": True, **plain}
        for number, token in enumerate(added)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return Teacher(model=str(folder), name=folder.name)


def dense(targets: list[Targets]) -> torch.Tensor:
    """Probabilities of the shared tokens, and in one more column of all others."""
    rows = [each.rows for each in targets]
    found = torch.zeros(sum(len(each.nll) for each in rows), SHARED)
    start = 0
    for each in rows:
        found[start : start + len(each.nll)].scatter_add_(1, each.ids, each.log_probs.exp())
        start += len(each.nll)
    return torch.cat([found, torch.cat([each.tail.exp() for each in rows])[:, None]], dim=1)


def whole(family: Path, folder: Path, teacher: Teacher, **settings: object) -> Distillation:
    """A student whose teacher's cache holds everything that it predicts."""
    return distillation(family, folder, (teacher,), cache={"k": SHARED + 1}, **settings)


@pytest.fixture
def plain(family: Path, tmp_path: Path) -> torch.Tensor:
    """What a teacher without further tokens predicts."""
    one = Teacher(model=str(family / "one"), name="one")
    return dense(targets_of(whole(family, tmp_path / "plain", one)))


def test_what_is_said_of_a_further_token_counts_among_all_others(
    family: Path, tmp_path: Path, plain: torch.Tensor
) -> None:
    more = model_with(family / "one", tmp_path / "more", "<think>")
    found = dense(targets_of(whole(family, tmp_path / "student", more)))
    further = plain[:, LIKELY : LIKELY + 1]
    expected = torch.cat([plain[:, :SHARED], further], dim=1) / (1 + further)
    assert further.max() > 0.05
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("theirs", [(), ("<tool>",)], ids=["padding", "another token"])
def test_a_token_that_the_student_alone_has_is_not_predicted(
    family: Path, tmp_path: Path, plain: torch.Tensor, theirs: tuple[str, ...]
) -> None:
    ours = model_with(family / "one", tmp_path / "ours", "<think>")
    teacher = model_with(family / "one", tmp_path / "theirs", *theirs)
    work = whole(family, tmp_path / "student", teacher)
    work = replace(work, student=work.student.model_copy(update={"base": ours.model}))
    targets = targets_of(work)
    assert all(int(each.rows.ids.max()) < SHARED for each in targets)
    further = plain[:, LIKELY : LIKELY + 1] * len(theirs)
    expected = torch.cat([plain[:, :SHARED], further], dim=1) / (1 + further)
    torch.testing.assert_close(dense(targets), expected, atol=5e-3, rtol=0)


def test_the_average_with_a_teacher_without_further_tokens_leaves_their_share_to_all_others(
    family: Path, tmp_path: Path, plain: torch.Tensor
) -> None:
    more = model_with(family / "one", tmp_path / "more", "<think>")
    both = (more, Teacher(model=str(family / "one"), name="one"))
    work = distillation(family, tmp_path / "student", both, fuse="avg_probs", cache={"k": 9})
    _, corpus = asked(work)
    ensemble = open_ensemble(work, SourceLibrary(Path("/")), corpus, quiet, (None, {}))
    found = dense([ensemble.members[0].targets_of(each.index) for each in corpus.sequences])
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)), atol=5e-3, rtol=0)
    best = found[:, :SHARED].argmax(1, keepdim=True)
    wanted = (plain + plain / (1 + plain[:, LIKELY : LIKELY + 1])) / 2
    torch.testing.assert_close(found.gather(1, best), wanted.gather(1, best), atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", ["uld", "standardised_uld", "alm", "span_hybrid"])
def test_a_loss_of_any_vocabularies_sees_the_further_tokens(
    family: Path, tmp_path: Path, loss: str
) -> None:
    more = model_with(family / "one", tmp_path / "more", "<think>")
    work = whole(family, tmp_path / "student", more, loss={"kind": loss})
    opener, corpus = asked(work)
    teacher = opener.open(more, frozenset(each.index for each in corpus.sequences))
    assert teacher.vocabulary.size == SHARED + 1
    assert teacher.vocabulary.to_student.tolist() == [*range(SHARED), -1]
    assert (teacher.targets_of(0).rows.ids == SHARED).any(dim=1).all()
    losses = distil(work, quiet, never).course["validation_losses"]
    assert losses[-1] < losses[0]


def test_rows_with_and_without_further_tokens_are_not_mixed(family: Path, tmp_path: Path) -> None:
    more = model_with(family / "one", tmp_path / "more", "<think>")
    work = distillation(
        family,
        tmp_path / "student",
        (more, Teacher(model=str(family / "one"), name="one")),
        loss={"kind": "uld"},
        fuse="min_ce",
        fuse_by="token",
    )
    _, corpus = asked(work)
    with pytest.raises(RecipeError, match=r"^fuse: min_ce by token with a teacher that has"):
        open_ensemble(work, SourceLibrary(Path("/")), corpus, quiet, (None, {}))


def test_a_teacher_with_further_tokens_does_not_run_beside_the_student(
    family: Path, tmp_path: Path
) -> None:
    more = model_with(family / "one", tmp_path / "more", "<think>")
    work = distillation(family, tmp_path / "student", (more,), loss={"kind": "kl"}, cache=None)
    with pytest.raises(CompatibilityError, match=r"more: .* but for 1 token \('<think>'\) .* kl"):
        distil(work, quiet, never)
