"""Promise: a teacher with another tokenizer teaches by every way there is, and is understood."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from students import asked, distillation, never, quiet, targets_of
from vocabulary_family import build_model, byte_level

from evomerge.errors import CompatibilityError, RecipeError, RunError
from evomerge.live_model import load_model, named_weights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.alignment.same import Relation
from evomerge.refinement.distil import distil
from evomerge.refinement.teachers import cached as cached_teacher
from evomerge.refinement.teachers.cached import TeacherOpener
from evomerge.refinement.teachers.ensemble import open_ensemble
from evomerge.refinement.texts.examples import Example, Message

MERGES = [("r", "e"), ("re", "d"), ("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t"), ("o", "n"), ("Ġ", "d")]
TEACHER = {"distillation": 1.0, "cross_entropy": 0.0}
OPEN = {"coverage": 0.0}
"""However little is covered: half of the bytes are one token in both tokenizers here."""

WAYS = [
    *(("top_k_kl", way) for way in ("prefixes", "spans", "exact", "edit_distance", "statistics")),
    *(("uld", way) for way in ("position", "spans")),
    *(("standardised_uld", way) for way in ("position", "spans")),
    *((loss, "spans") for loss in ("alm", "span_hybrid", "sampled_kl")),
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """A teacher of other tokens under other ids."""
    folder = tmp_path_factory.mktemp("teacher") / "other"
    build_model(folder, byte_level(MERGES, turn=9), seed=4)
    return Teacher(model=str(folder), name="other")


@pytest.mark.parametrize(("loss", "way"), WAYS)
def test_a_student_comes_nearer_to_a_teacher_of_another_tokenizer(
    family: Path, tmp_path: Path, other: Teacher, loss: str, way: str
) -> None:
    kept = {"kind": "sampled", "k": 30} if loss == "sampled_kl" else {"k": 20}
    work = distillation(
        family,
        tmp_path / "student",
        (other,),
        loss=TEACHER | {"kind": loss},
        alignment=OPEN | {"kind": way},
        cache=kept,
    )
    course = distil(work, quiet, never).course
    # ALM's loss never is 0.
    assert (
        course["validation_losses"][-1]
        < (0.98 if loss == "alm" else 0.9) * course["validation_losses"][0]
    )
    assert course["alignment"]["other"].startswith(
        "the tokenizers differ in tokens and merge rules, so tokens have to be aligned: 49.3% of "
        "the bytes are one token in both tokenizers"
    )


@pytest.mark.parametrize("way", ["spans", "exact", "edit_distance"])
def test_a_teacher_of_the_same_tokenizer_tells_the_same_bits_if_it_is_aligned(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    one = Teacher(model=str(family / "one"), name="one")
    work = distillation(family, tmp_path / "student", (one,), alignment={"kind": way})
    plain = targets_of(work)
    different = Relation(kind="different", explanation="the tokenizers are taken for different")
    monkeypatch.setattr(cached_teacher, "relate", lambda *_: different)
    aligned = targets_of(work)
    for ours, theirs in zip(plain, aligned, strict=True):
        assert theirs.covered.all()
        for name in ("ids", "log_probs", "tail", "nll"):
            assert torch.equal(getattr(ours.rows, name), getattr(theirs.rows, name)), name


def test_a_token_without_a_partner_is_certain_for_fusellm_and_left_out_by_groups_of_bytes(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    found = {}
    for way in ("exact", "spans"):
        work = distillation(
            family, tmp_path / way, (other,), alignment=OPEN | {"kind": way}, cache={"k": 5}
        )
        found[way] = targets_of(work)
    assert all(targets.covered.all() for targets in found["exact"])
    left_out = torch.cat([~targets.covered for targets in found["spans"]])
    certain = torch.cat([targets.rows.log_probs[:, 0] == 0 for targets in found["spans"]])
    assert left_out.any()
    assert torch.equal(left_out, certain)


@pytest.mark.parametrize("way", ["position", "spans"])
def test_rows_of_partners_are_whole_distributions(
    family: Path, tmp_path: Path, other: Teacher, way: str
) -> None:
    settings = {"loss": {"kind": "uld"}, "alignment": OPEN | {"kind": way}}
    for targets in targets_of(distillation(family, tmp_path / "student", (other,), **settings)):
        total = torch.logaddexp(targets.rows.log_probs.logsumexp(1), targets.rows.tail)[
            targets.covered
        ]
        torch.testing.assert_close(total, torch.zeros_like(total), atol=0.02, rtol=0)


def test_rows_of_groups_are_as_likely_as_the_tokens_before_the_last(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    settings = {"loss": {"kind": "span_hybrid"}, "alignment": OPEN}
    found = targets_of(distillation(family, tmp_path / "student", (other,), **settings))
    for targets in found:
        total = torch.logaddexp(targets.rows.log_probs.logsumexp(1), targets.rows.tail)
        assert (-total <= targets.rows.nll + 0.02)[targets.covered].all()
        assert int(targets.before[targets.covered].add(1).sum()) == len(targets.covered)
    assert any((targets.before > 0).any() for targets in found)


def test_what_a_teacher_finds_of_a_text_does_not_depend_on_how_it_is_aligned(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    found = []
    for loss, way in (("top_k_kl", "spans"), ("top_k_kl", "exact"), ("uld", "position")):
        work = distillation(
            family,
            tmp_path / f"{loss} {way}",
            (other,),
            loss={"kind": loss},
            alignment=OPEN | {"kind": way},
        )
        found.append(torch.stack([targets.rows.nll.sum() for targets in targets_of(work)]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("preset", ["fusellm", "fusechat", "infifusion"])
def test_published_systems_run_with_a_teacher_of_another_tokenizer(
    family: Path, tmp_path: Path, other: Teacher, preset: str
) -> None:
    work = distillation(
        family, tmp_path / "student", (other,), preset=preset, alignment={"coverage": 0.1}
    )
    losses = distil(work, quiet, never).course["validation_losses"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("preset", ["fusellm", "infifusion", "feddf"])
def test_published_systems_run_with_several_teachers(
    family: Path, tmp_path: Path, preset: str
) -> None:
    both = tuple(Teacher(model=str(family / name), name=name) for name in ("one", "two"))
    work = distillation(family, tmp_path / "student", both, preset=preset)
    losses = distil(work, quiet, never).course["validation_losses"]
    assert losses[-1] < losses[0]


def test_the_student_itself_is_heard_where_it_knows_a_text_better(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    work = distillation(
        family,
        tmp_path / "student",
        (other,),
        fuse="min_ce",
        with_student=True,
        alignment=OPEN,
    )
    opener, corpus = asked(work)
    library = SourceLibrary(Path("/"))
    base = library.model(work.student.base)
    model, _ = load_model(base.folder, torch.float32, torch.device("cpu"))
    student = model, named_weights(model, base.headers)
    (ensemble,) = open_ensemble(work, library, corpus, quiet, student).members
    both = [
        opener.open(other, frozenset(each.index for each in corpus.sequences)),
        opener.open_student(*student),
    ]
    chosen = set()
    for each in corpus.sequences:
        means = [float(teacher.targets_of(each.index).rows.nll.mean()) for teacher in both]
        assert float(ensemble.targets_of(each.index).rows.nll.mean()) == min(means)
        chosen.add(means.index(min(means)))
    assert chosen == {0, 1}


@pytest.mark.parametrize("way", ["prefixes", "spans"])
def test_it_is_told_how_many_positions_have_no_prediction_in_fact(
    family: Path, tmp_path: Path, other: Teacher, way: str
) -> None:
    """With few tokens kept much is lost where tokens are split."""
    work = distillation(
        family, tmp_path / "student", (other,), alignment=OPEN | {"kind": way}, cache={"k": 2}
    )
    opener, corpus = asked(work)
    teacher = opener.open(other, frozenset(each.index for each in corpus.sequences))
    taught = []
    for each in corpus.sequences:
        targets = teacher.targets_of(each.index)
        # The default tail leaves what was not kept to the text.
        taught.append(targets.covered & targets.rows.has(each.ids[each.supervised]))
    alone = 1 - float(torch.cat(taught).float().mean())
    assert 0 < alone < 1
    assert teacher.note.endswith(f"and {alone:.1%} of the positions learn their own token alone")


def test_several_teachers_are_aligned_if_one_of_them_is(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    own = Teacher(model=str(family / "one"), name="one")
    work = distillation(family, tmp_path / "student", (own, other), fuse="min_ce", alignment=OPEN)
    corpus = asked(work)[1]
    nobody: tuple[Any, dict[str, torch.Tensor]] = (None, {})
    ensemble = open_ensemble(work, SourceLibrary(Path("/")), corpus, quiet, nobody)
    assert [each.vocabulary.aligned for each in ensemble.members] == [True]


def test_too_little_in_common_is_refused_in_one_line(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    work = distillation(family, tmp_path / "student", (other,), alignment={"coverage": 0.5})
    with pytest.raises(CompatibilityError, match=r"other: only 49\.3% of the bytes") as caught:
        distil(work, quiet, never)
    assert "\n" not in str(caught.value)


def test_averages_of_teachers_with_several_tokenizers_are_refused(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    both = (other, Teacher(model=str(family / "one"), name="one"))
    work = distillation(family, tmp_path / "student", both, fuse="avg_probs", alignment=OPEN)
    with pytest.raises(RecipeError, match=r"fuse: avg_probs by sequence with a teacher that has"):
        distil(work, quiet, never)


def test_each_of_several_teachers_has_a_loss_of_its_own_in_a_sum(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    """Nothing is learned yet, so the loss of both is that of one and that of the other."""
    own = Teacher(model=str(family / "one"), name="one")
    losses = {}
    for teachers in ((other,), (own,), (other, own)):
        work = distillation(
            family,
            tmp_path / "-".join(each.label for each in teachers),
            teachers,
            preset="infifusion",
            loss={"cross_entropy": 0.0},
            train={"epochs": 1},
        )
        losses[teachers] = distil(work, quiet, never).course["losses"][0]
    assert losses[other, own] == pytest.approx(losses[(other,)] + losses[(own,)], rel=1e-5)


def test_a_teacher_reads_no_chat_that_it_is_not_asked_of(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    """It has no chat template; its texts keep their numbers."""
    work = distillation(family, tmp_path / "student", (other,), alignment=OPEN)
    expected, (opener, corpus) = targets_of(work), asked(work)
    chat = Example(content=(Message("user", "red"), Message("assistant", "blue")))
    moved = [replace(each, index=each.index + 1) for each in corpus.sequences]
    both = replace(corpus, examples=(chat, *corpus.examples), sequences=moved)
    opener = TeacherOpener(work, SourceLibrary(Path("/")), both, quiet)
    teacher = opener.open(other, frozenset(each.index for each in moved))
    for index, targets in enumerate(expected, start=1):
        assert torch.equal(teacher.targets_of(index).rows.ids, targets.rows.ids)
        assert torch.equal(teacher.targets_of(index).rows.nll, targets.rows.nll)


def test_a_teacher_without_a_token_to_predict_is_named(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    """The student reads a word where it reads bytes, so that a prompt fills all it may read."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "red cat cat", "completion": " cat"}), encoding="utf-8")
    data = {"path": str(texts), "max_tokens": 8}
    bytewise = Teacher(model=str(family / "one"), name="bytewise")
    work = distillation(family, tmp_path / "student", (bytewise,), alignment=OPEN, data=data)
    student = work.student.model_copy(update={"base": other.model})
    work = replace(work, student=student)
    with pytest.raises(RecipeError, match=r"^bytewise: with its tokenizer none of 1 examples has"):
        targets_of(work)


def changed(teacher: Teacher, folder: Path) -> Teacher:
    """The same model with another tokenizer of as many tokens."""
    shutil.copytree(teacher.model, folder)
    tokenizer: dict[str, Any] = byte_level(MERGES, turn=10)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return teacher.model_copy(update={"model": str(folder)})


def test_caches_of_other_settings_and_tokenizers_lie_side_by_side_in_a_folder_of_the_user(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    again, folder = changed(other, tmp_path / "changed"), tmp_path / "kept"
    for k, teacher in ((5, other), (7, other), (5, again)):
        kept = {"folder": str(folder), "k": k}
        work = distillation(family, tmp_path / "s", (teacher,), alignment=OPEN, cache=kept)
        assert all(each.rows.ids.shape[1] <= k for each in targets_of(work))
    before = sorted(folder.rglob("*.npy"))
    assert len({file.relative_to(folder).parts[0] for file in before}) == 3
    targets_of(work)
    assert sorted(folder.rglob("*.npy")) == before
    assert all(each.name.startswith("other-") for each in folder.iterdir())


def test_a_training_whose_teacher_has_another_tokenizer_now_is_refused(
    family: Path, tmp_path: Path, other: Teacher
) -> None:
    own = changed(other, tmp_path / "own")
    work = distillation(family, tmp_path / "student", (own,), alignment=OPEN)
    distil(work, quiet, never)
    tokenizer = byte_level(MERGES, turn=11)
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RunError, match=r"own, its tokenizer: has changed since the training"):
        distil(work, quiet, never)
