"""Promise: a teacher's tokens map to the student's of the same text, or to the nearest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from trained_tokenizers import byte_level, llama, unigram, vocabulary_of, word_piece

from evomerge.errors import OutputError
from evomerge.refinement.alignment import vocabulary_map
from evomerge.refinement.alignment.nearest import nearest
from evomerge.refinement.alignment.vocabulary import Vocabulary
from evomerge.refinement.alignment.vocabulary_map import (
    UNMATCHED,
    exact_map,
    min_edit_map,
    with_pairs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

WORDS = st.text("abc \n", max_size=6)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    return tmp_path / "vocabulary-maps"


def of(*tokens: str | None) -> Vocabulary:
    spellings = tuple(None if token is None else token.encode() for token in tokens)
    return Vocabulary(tokens=tokens, spellings=spellings)


@pytest.mark.parametrize("tokenizer", [byte_level(), llama(), unigram(), word_piece()])
def test_a_vocabulary_maps_to_itself_by_identity(tokenizer: Tokenizer) -> None:
    vocabulary = vocabulary_of(tokenizer)
    identity = list(range(len(vocabulary)))
    assert exact_map(vocabulary, vocabulary).tolist() == identity
    assert min_edit_map(vocabulary, vocabulary).tolist() == identity


def test_tokens_match_whatever_sign_their_tokenizers_have_for_a_space() -> None:
    teacher, student = llama(), byte_level()
    found = exact_map(vocabulary_of(teacher), vocabulary_of(student))
    assert found[teacher.token_to_id("▁the")] == student.token_to_id("Ġthe")
    assert found[teacher.token_to_id("<0x0A>")] == student.token_to_id("Ċ")
    assert found[teacher.token_to_id("</s>")] == UNMATCHED


def test_a_character_comes_before_the_byte_that_stands_in_for_it() -> None:
    student = Vocabulary(tokens=("<0x61>", "a"), spellings=(b"a", b"a"))
    assert exact_map(of("a"), student).tolist() == [1]
    teacher = Vocabulary(tokens=("<0x61>", "A-like"), spellings=(b"a", b"a"))
    assert exact_map(teacher, student).tolist() == [0, 1]


def test_ids_without_a_token_have_no_partner() -> None:
    assert exact_map(of("a", None, "b"), of(None, "b", "a")).tolist() == [2, UNMATCHED, 1]
    assert min_edit_map(of("a", None), of(None, "b")).tolist() == [1, UNMATCHED]


def test_the_least_edit_distance_wins_and_then_the_lowest_id() -> None:
    student = of("cart", "cut", "cat", " cat")
    assert min_edit_map(of("cat", "cats", "cot", "  cat"), student).tolist() == [2, 2, 1, 3]


def test_no_tokens_to_map_to_is_no_partner() -> None:
    assert min_edit_map(of("a"), of(None)).tolist() == [UNMATCHED]


@given(
    texts=st.lists(WORDS | st.text(max_size=4), max_size=12), others=st.lists(WORDS, min_size=1)
)
def test_the_nearest_text_is_that_of_all_pairs(texts: list[str], others: list[str]) -> None:
    expected = [
        min(range(len(others)), key=lambda n: (Levenshtein.distance(text, others[n]), n))
        for text in texts
    ]
    assert nearest(texts, others).tolist() == expected


def test_a_map_is_kept_on_disk(cache: Path) -> None:
    teacher, student = of("cats", "dog"), of("cat", "dot")
    expected = min_edit_map(teacher, student)
    (file,) = cache.iterdir()
    np.save(file, np.array([1, 1], dtype=np.int32))
    assert min_edit_map(teacher, student).tolist() == [1, 1]
    assert expected.tolist() == [0, 1]
    assert min_edit_map(student, teacher).tolist() == [0, 1]
    assert len([*cache.iterdir()]) == 2


def test_a_map_that_was_made_in_another_way_is_not_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = of("cats", "dog"), of("cat", "dot")
    min_edit_map(teacher, student)
    (file,) = cache.iterdir()
    np.save(file, np.array([1, 1], dtype=np.int32))
    monkeypatch.setattr(vocabulary_map, "SCHEMA", vocabulary_map.SCHEMA + 1)
    assert min_edit_map(teacher, student).tolist() == [0, 1]


@pytest.mark.parametrize(
    "damage",
    [b"", b"no numbers", np.array([0]), np.array([0, 2], dtype=np.int32), np.array([0.0, 1.0])],
    ids=["empty", "text", "too short", "no such id", "fractions"],
)
def test_a_damaged_map_is_made_again(cache: Path, damage: object) -> None:
    teacher, student = of("cats", "dog"), of("cat", "dot")
    min_edit_map(teacher, student)
    (file,) = cache.iterdir()
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        np.save(file, np.asarray(damage))
    assert min_edit_map(teacher, student).tolist() == [0, 1]
    assert np.load(file).tolist() == [0, 1]


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(OutputError, match=r"vocabulary-maps.*cannot be written"):
        min_edit_map(of("a"), of("b"))


def test_tokens_can_be_paired_by_hand() -> None:
    found = exact_map(of("</s>", "a"), of("a", "<|end|>"))
    assert with_pairs(found, {0: 1}).tolist() == [1, 0]
    assert with_pairs(found, {}).tolist() == found.tolist() == [UNMATCHED, 0]
