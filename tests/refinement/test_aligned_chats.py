"""Promise: of a chat that two templates write, what the assistant said is aligned, and no more."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from chat_tokenizer import CHATML, PLAIN, SYSTEM_LAST, THINKING, TRIMMING, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from students import distillation, never, quiet
from tokenizers import AddedToken, Tokenizer
from trained_tokenizers import byte_level, vocabulary_of
from transformers import PreTrainedTokenizerFast
from vocabulary_family import build_model
from vocabulary_family import byte_level as another_byte_level

from evomerge.errors import RecipeError
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.alignment.pairs import Pair, pair
from evomerge.refinement.alignment.placed import Placed, Reader, place
from evomerge.refinement.distil import distil
from evomerge.refinement.predictions.top_k import TopK
from evomerge.refinement.teachers.aligned import AlignedTeacher, AlignmentMode
from evomerge.refinement.teachers.prefixes import PrefixTeacher
from evomerge.refinement.texts.examples import Example, Message
from evomerge.refinement.texts.sequences import make_sequences

if TYPE_CHECKING:
    from pathlib import Path

THEIRS = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"


END = byte_level(300).token_to_id("<|end|>")


def reader(tokenizer: PreTrainedTokenizerFast) -> Reader:
    return Reader(tokenizer=tokenizer, vocabulary=vocabulary_of(tokenizer.backend_tokenizer))


def student(template: str) -> Reader:
    return reader(chat_tokenizer(template))


def teacher(template: str = THEIRS) -> Reader:
    core = byte_level(300)
    return reader(
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", chat_template=template)
    )


def placed(own: Reader, said: list[str], cut_off: int = 0) -> Placed:
    """A chat in which the assistant says this, and the user something else."""
    turns = [(Message("user", "and?"), Message("assistant", each)) for each in said]
    chat = (Message("system", "Be brief."), *(turn for both in turns for turn in both))
    (whole,) = make_sequences([Example(content=chat)], own.tokenizer, 999).sequences
    kept = slice(0, len(whole) - cut_off)
    read = replace(whole, ids=whole.ids[kept], supervised=whole.supervised[kept])
    return place(own, chat, read)


def said_by_both(found: Pair, readers: tuple[Reader, Reader]) -> list[tuple[bytes, bytes]]:
    """What the tokens of each group stand for."""
    sides = [(found.student, readers[0]), (found.teacher, readers[1])]
    spelled = [
        [own.vocabulary.spellings[token] or b"" for token in side.supervised]
        for side, own in sides
    ]
    return [
        (b"".join(spelled[0][slice(*each.student)]), b"".join(spelled[1][slice(*each.teacher)]))
        for each in found.groups
    ]


def aligned(ours: Reader, theirs: Reader, said: list[str]) -> list[tuple[bytes, bytes]]:
    found = pair(placed(ours, said), placed(theirs, said))
    return said_by_both(found, (ours, theirs))


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHATML, b"<|stop|>"), (TRIMMING, b"<|stop|>"), (SYSTEM_LAST, b" </s>"), (PLAIN, None)],
    ids=["chatml", "trimming", "system last", "plain"],
)
def test_all_that_the_assistant_said_is_aligned_and_the_ends_of_its_turns(
    template: str, end: bytes | None
) -> None:
    groups = aligned(student(template), teacher(), ["the cat", "oui é, the mat"])
    ends = [own for own in groups if own == (end, b"<|end|>")]
    said = [own for own in groups if own not in ends]
    assert len(ends) == (0 if end is None else 2)
    assert all(ours == theirs for ours, theirs in said)
    assert b"".join(ours for ours, _ in said).decode() == "the catoui é, the mat"


def test_the_token_that_ends_a_turn_need_not_be_the_one_that_ends_texts() -> None:
    """As Gemma's `<end_of_turn>` beside its `<eos>`: neither stands for letters."""
    core = byte_level(300)
    core.add_special_tokens([AddedToken("<eos>", special=True)])
    theirs = reader(
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", chat_template=THEIRS)
    )
    ours = student(CHATML)
    both = pair(placed(ours, ["zqz"]), placed(theirs, ["zqz"]))
    labels = torch.tensor(both.teacher.supervised)
    kept = torch.tensor([0.6, 0.4]).log().expand(len(labels), -1)
    rows = TopK(
        ids=torch.stack([labels, torch.where(labels == END, 0, END)], dim=1),
        log_probs=kept,
        tail=torch.full((len(labels),), -torch.inf),
        nll=-kept[:, 0],
        vocabulary=len(theirs.tokenizer),
    )
    stop = ours.tokenizer.convert_tokens_to_ids("<|stop|>")
    for aligned_teacher in (
        PrefixTeacher({0: both}, (ours, theirs)),
        AlignedTeacher(
            {0: both}, (ours, theirs), AlignmentMode(loss="top_k_kl", alignment="spans")
        ),
    ):
        targets = aligned_teacher.targets(0, rows)
        assert targets.covered.all()
        assert targets.rows.ids[:-1].tolist() == [
            [own, stop] for own in both.student.supervised[:-1]
        ]
        assert targets.rows.ids[-1, 0] == stop


def test_a_token_that_begins_in_the_template_has_no_partner() -> None:
    spaced = teacher(THEIRS.replace("\n", ": "))
    groups = aligned(student(CHATML), spaced, ["the cat"])
    assert b"".join(ours for ours, _ in groups[:-1]) == b" cat"


def test_a_token_that_ends_in_the_template_has_no_partner() -> None:
    core = json.loads(chat_tokenizer(None).backend_tokenizer.to_str())
    core["model"]["vocab"]["tx"] = len(core["model"]["vocab"]) + len(core["added_tokens"])
    core["model"]["merges"] = [["t", "x"]]
    template = CHATML.replace("content }}", "content }}x")
    ours = reader(
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(core)), chat_template=template
        )
    )
    assert aligned(ours, teacher(), ["zqt"]) == [(b"z", b"z"), (b"q", b"q")]


def test_what_one_template_leaves_out_is_in_no_group() -> None:
    z, end = (b"z", b"z"), (b"<|stop|>", b"<|end|>")
    thought = aligned(student(THINKING), teacher(), ["<think>b</think>zz", "zz"])
    assert thought[:3] == [z, z, end]
    assert aligned(student(TRIMMING), teacher(), ["  zz\n"]) == [z, z, end]


def test_what_is_left_of_an_answer_is_its_end() -> None:
    said = ["z<think>b</think>z", "z"]
    theirs = placed(teacher(), said)
    (first, *_) = pair(placed(student(THINKING), said), theirs).groups
    assert (first.student, first.teacher[0]) == ((0, 1), theirs.supervised.index(END) - 1)


def test_a_turn_that_a_template_changes_is_not_aligned() -> None:
    shouting = student(CHATML.replace("m.content", "m.content | upper"))
    assert aligned(shouting, teacher(), ["zq"]) == []


@given(said=st.lists(st.text("the cat\n é<|", max_size=8), min_size=1, max_size=3))
def test_groups_are_the_same_bytes_whatever_is_said(said: list[str]) -> None:
    for ours, theirs in aligned(student(CHATML), teacher(), said):
        assert ours == theirs or (ours, theirs) == (b"<|stop|>", b"<|end|>")


@pytest.mark.parametrize("cut_off", range(1, 20))
def test_what_was_cut_off_has_no_partner(cut_off: int) -> None:
    ours, theirs = student(CHATML), teacher()
    said = ["the cat sat", "on the mat"]
    whole = len(aligned(ours, theirs, said))
    for sides in (
        (placed(ours, said), placed(theirs, said, cut_off)),
        (placed(ours, said, cut_off), placed(theirs, said)),
    ):
        groups = said_by_both(pair(*sides), (ours, theirs))
        assert 0 < len(groups) < whole or cut_off == 1
        for own, other in groups:
            assert own == other or (own, other) == (b"<|stop|>", b"<|end|>")


def test_a_student_learns_chats_from_a_teacher_with_another_tokenizer_and_template(
    family: Path, tmp_path: Path
) -> None:
    shutil.copytree(family, tmp_path / "family")
    build_model(tmp_path / "other", another_byte_level([("r", "e"), ("re", "d")], turn=9), seed=4)
    other = Teacher(model=str(tmp_path / "other"), name="other")
    texts = tmp_path / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"red {n} cat"}]
        for n in range(20)
    ]
    texts.write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    work = distillation(
        tmp_path / "family",
        tmp_path / "student",
        (other,),
        data={"path": str(texts)},
        loss={"distillation": 1.0, "cross_entropy": 0.0},
        alignment={"coverage": 0.5},
    )
    (tmp_path / "family" / "base" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}> {{ m.content }}<|end|>{% endfor %}"
    )
    with pytest.raises(RecipeError, match=r"^other: with its tokenizer .*chats\.jsonl: line 1"):
        distil(work, quiet, never)
    (tmp_path / "other" / "chat_template.jinja").write_text(THEIRS)
    losses = distil(work, quiet, never).course["validation_losses"]
    assert losses[-1] < 0.9 * losses[0]
