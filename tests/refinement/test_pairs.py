"""Promise: groups of rows are the same bytes for both, and nothing that is not supervised."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from readers import AROUND, BYTES, LLAMA, PLAIN, TEXTS, WORDS, placed, reader
from trained_tokenizers import byte_level

from evomerge.refinement.alignment.pairs import pair
from evomerge.refinement.alignment.placed import Reader, place
from evomerge.sensitivity.calibration import Prompted


@pytest.mark.parametrize("teacher", [BYTES, AROUND, LLAMA], ids=["bytes", "around", "llama"])
@given(prompt=TEXTS.map(lambda text: text[:9]), completion=TEXTS, most=st.integers(40, 200))
def test_groups_are_the_same_bytes_in_both(
    teacher: Reader, prompt: str, completion: str, most: int
) -> None:
    text = Prompted(prompt, completion)
    found = pair(placed(PLAIN, text, most), placed(teacher, text, 400))
    for each in found.groups:
        ours, theirs = (
            b"".join(
                own.vocabulary.spellings[token] or b"" for token in side.supervised[slice(*rows)]
            )
            for own, side, rows in (
                (PLAIN, found.student, each.student),
                (teacher, found.teacher, each.teacher),
            )
        )
        assert ours == theirs
        assert each.size == len(ours)


def test_special_tokens_around_a_text_are_no_part_of_its_groups() -> None:
    text = "the cat sat on the mat"
    found = pair(placed(PLAIN, text), placed(AROUND, text))
    # What comes first of all is only supervised where a special token is in front of it.
    assert found.groups[0].teacher[0] > 0
    ends = {rows for each in found.groups for rows in range(*each.teacher)}
    assert len(found.teacher.supervised) - 1 not in ends
    assert sum(each.size for each in found.groups) == found.student.size


def test_the_ends_of_two_answers_are_partners() -> None:
    text = "the cat sat on the mat"
    other = reader(byte_level(280), bos_token="<|start|>", eos_token="<|end|>")
    found = pair(placed(AROUND, text), placed(other, text))
    last = found.groups[-1]
    assert (last.student[1], last.teacher[1]) == (
        len(found.student.supervised),
        len(found.teacher.supervised),
    )
    assert last.is_alone


def test_what_was_cut_off_has_no_partner() -> None:
    text = "the cat sat on the mat, and the dog sat on the log."
    found = pair(placed(PLAIN, text), placed(BYTES, text, 20))
    assert sum(each.size for each in found.groups) < found.student.size
    assert found.lone_partners()[-1] is None


def test_a_text_that_a_tokenizer_has_dropped_has_no_groups() -> None:
    nothing = place(BYTES, "the cat", None)
    found = pair(placed(PLAIN, "the cat sat"), nothing)
    assert found.groups == ()
    assert set(found.lone_partners()) == {None}


def test_a_tokenizer_that_drops_spaces_and_capitals_is_grouped_too() -> None:
    text = Prompted("the cat ", "sat on the mat")
    found = pair(placed(PLAIN, text), placed(WORDS, text))
    assert sum(each.size for each in found.groups) == found.student.size
    assert torch.tensor([each.is_alone for each in found.groups]).any()
