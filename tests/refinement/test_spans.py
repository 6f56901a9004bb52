"""Promise: tokens of two tokenizations are grouped where both end at the same byte of the text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trained_tokenizers import byte_level, llama, unigram, vocabulary_of, word_piece

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.spans import Groups, group, token_ends

SPELLING = {"byte-level": byte_level, "bytes": lambda: byte_level(256), "llama": llama}
ALL = {**SPELLING, "unigram": unigram, "wordpiece": word_piece}
TEXTS = st.text(
    st.sampled_from("the cat Dog\n\t,.()  é日本🙂ﬁ½") | st.characters(codec="utf-8"), max_size=30
)
HARD = "naïve ﬁne 日本 🙂🙂\n\n  e\u0301 ½"


SPELLINGS = {name: vocabulary_of(tokenizer()).spellings for name, tokenizer in ALL.items()}


def read_back(name: str, text: str) -> list[bytes]:
    found = ALL[name]().encode(text, add_special_tokens=False).ids
    return [SPELLINGS[name][token] or b"" for token in found]


def spelled(name: str, text: str) -> tuple[int, ...]:
    offsets = ALL[name]().encode(text, add_special_tokens=False).offsets
    return token_ends(text, read_back(name, text), offsets)


def items(spans: tuple[tuple[int, int], ...]) -> list[int]:
    return [position for start, stop in spans for position in range(start, stop)]


def test_a_group_ends_where_both_sides_end() -> None:
    groups = group([2, 5, 9], [5, 7, 9])
    assert groups == Groups(student=((0, 2), (2, 3)), teacher=((0, 1), (1, 3)), ends=(5, 9))


@given(text=TEXTS, student=st.sampled_from(sorted(ALL)), teacher=st.sampled_from(sorted(ALL)))
@example(text=HARD, student="byte-level", teacher="unigram")
@example(text=HARD, student="wordpiece", teacher="llama")
def test_groups_hold_every_token_of_both_once_and_end_with_the_text(
    text: str, student: str, teacher: str
) -> None:
    ours, theirs = spelled(student, text), spelled(teacher, text)
    groups = group(ours, theirs)
    assert items(groups.student) == list(range(len(ours)))
    assert items(groups.teacher) == list(range(len(theirs)))
    assert list(groups.ends) == sorted(set(groups.ends))
    if ours or theirs:
        assert groups.ends[-1] == len(text.encode())


@given(
    text=TEXTS,
    student=st.sampled_from(sorted(SPELLING)),
    teacher=st.sampled_from(sorted(SPELLING)),
)
@example(text=HARD, student="byte-level", teacher="llama")
def test_both_sides_of_a_group_spell_the_same_bytes(text: str, student: str, teacher: str) -> None:
    ours, theirs = (read_back(name, text) for name in (student, teacher))
    groups = group(spelled(student, text), spelled(teacher, text))
    for start, end, (first, last), (begin, stop) in zip(
        (0, *groups.ends), groups.ends, groups.student, groups.teacher, strict=False
    ):
        expected = text.encode()[start:end]
        # A space in front of the text may not be in the text.
        allowed = {expected, b" " + expected if start == 0 else expected}
        assert b"".join(ours[first:last]) in allowed
        assert b"".join(theirs[begin:stop]) in allowed


@given(text=TEXTS, name=st.sampled_from(sorted(SPELLING)))
@example(text=HARD, name="llama")
@example(text=HARD, name="byte-level")
def test_a_text_aligned_with_itself_is_all_one_to_one(text: str, name: str) -> None:
    ends = spelled(name, text)
    assert group(ends, ends).student == tuple((place, place + 1) for place in range(len(ends)))


@pytest.mark.parametrize("name", sorted(ALL))
def test_words_aligned_with_themselves_are_all_one_to_one(name: str) -> None:
    ends = spelled(name, "the cat sat on the log, un café")
    assert group(ends, ends).student == tuple((place, place + 1) for place in range(len(ends)))


def test_bytes_of_one_character_have_an_end_each() -> None:
    assert spelled("bytes", "é🙂x") == (1, 2, 3, 4, 5, 6, 7)


def test_a_space_that_is_put_in_front_of_the_text_has_no_bytes() -> None:
    spellings = [b" ", b"He", b"llo", b" you"]
    offsets = [(0, 1), (0, 2), (2, 5), (5, 9)]
    assert token_ends("Hello you", spellings, offsets) == (0, 2, 5, 9)


def test_tokens_that_do_not_spell_the_text_end_where_their_offsets_say() -> None:
    # NFKC makes two letters of the one character, which is three bytes long.
    assert token_ends("oﬁ!", [b"o", b"f", b"i", b"!"], [(0, 1), (1, 2), (1, 2), (2, 3)]) == (
        1,
        4,
        4,
        5,
    )


def test_a_token_that_reaches_into_the_next_one_ends_with_it() -> None:
    # A space in front is said to come from the first letter, which the next token starts with.
    ends = token_ends("Hé½", [b" ", "Hé".encode(), b"1/2"], [(0, 1), (0, 2), (2, 3)])
    assert ends == (3, 3, 5)
    assert group(ends, [1, 3, 5]).student == ((0, 2), (2, 3))


def test_what_comes_after_the_last_token_belongs_to_it() -> None:
    assert spelled("wordpiece", "the  cat \n")[-1] == 10


def test_a_text_that_one_side_has_no_token_for_is_one_group() -> None:
    groups = group(spelled("byte-level", " \n"), spelled("wordpiece", " \n"))
    assert (groups.student, groups.teacher, groups.ends) == (((0, 2),), ((0, 0),), (2,))
    assert group([], []) == Groups(student=(), teacher=(), ends=())


def test_tokens_of_two_texts_are_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"cover 5 bytes and the teacher's 6; give both"):
        group([2, 5], [2, 6])
