"""Promise: time warping aligns tokens as FuseLLM does, at the least sum of edit distances."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from evomerge.refinement.alignment.dtw import lone_partners, warp
from evomerge.refinement.alignment.mapping_statistics import count_pairs, statistics_map
from evomerge.refinement.alignment.vocabulary import Vocabulary
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED

WORDS = st.lists(st.text("abc", max_size=4), min_size=1, max_size=7)


def of(*tokens: str) -> Vocabulary:
    return Vocabulary(tokens=tokens, spellings=tuple(token.encode() for token in tokens))


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (["un", "believ", "able"], ["unbeliev", "able"], ((0, 1), (2,))),
        (["I", "get", "s", "it"], ["I", "gets", "it"], ((0,), (1,), (2, 3))),
    ],
)
def test_tokens_are_aligned_as_by_hand(
    teacher: list[str], student: list[str], expected: tuple[tuple[int, ...], ...]
) -> None:
    assert warp(teacher, student) == expected


@given(WORDS)
def test_a_text_is_aligned_with_itself_token_by_token(words: list[str]) -> None:
    assert warp(words, words) == tuple((position,) for position in range(len(words)))


@given(WORDS, WORDS)
def test_what_is_aligned_is_what_a_table_filled_cell_by_cell_gives(
    teacher: list[str], student: list[str]
) -> None:
    sums = {(-1, -1): 0.0}
    for i, theirs in enumerate(teacher):
        for j, ours in enumerate(student):
            before = [
                sums.get(cell, math.inf) for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1))
            ]
            sums[i, j] = Levenshtein.distance(theirs, ours) + min(before)
    i, j = len(teacher) - 1, len(student) - 1
    expected: list[list[int]] = [[] for _ in student]
    while i >= 0 and j >= 0:
        expected[j].insert(0, i)
        moves = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(moves, key=lambda cell: sums.get(cell, math.inf))
    assert warp(teacher, student) == tuple(map(tuple, expected))


def test_nothing_is_aligned_with_nothing() -> None:
    assert warp([], ["a", "b"]) == ((), ())
    assert warp(["a"], []) == ()


def test_a_partner_is_the_only_one_aligned() -> None:
    aligned = warp(["un", "believ", "able", "to"], ["unbeliev", "able", "too"])
    assert aligned == ((0, 1), (2,), (3,))
    assert lone_partners(aligned) == (None, 2, 3)


def test_pairs_of_several_texts_are_counted() -> None:
    counts = count_pairs([5, 6, 7], [1, 2], ((0, 1), (2,))) + count_pairs([5], [1], ((0,),))
    assert counts == {(5, 1): 2, (6, 1): 1, (7, 2): 1}


def test_a_token_maps_to_the_cheapest_that_it_was_aligned_with() -> None:
    teacher, student = of("cats", "dog", "never"), of("cat", "bats", "fog", "dig")
    counts = {(0, 1): 1, (0, 0): 5, (1, 3): 1, (1, 2): 9}
    # `cat` is within `cats`; the rarer of two at the same distance has the lower sigmoid.
    assert statistics_map(counts, teacher, student).tolist() == [0, 3, UNMATCHED]
    equal = {(1, 3): 2, (1, 2): 2}
    assert statistics_map(equal, teacher, student).tolist() == [UNMATCHED, 2, UNMATCHED]
