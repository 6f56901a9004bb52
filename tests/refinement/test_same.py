"""Promise: how two tokenizers relate is told by what they do, not by their sizes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from trained_tokenizers import unigram
from vocabulary_family import BASE, ONE, byte_level, tokens_of

from evomerge.refinement.alignment.same import Relation, relate
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Relate = Callable[[object, object], Relation]

MERGES = [("h", "e"), ("l", "l"), ("he", "ll")]


@pytest.fixture
def related(tmp_path: Path) -> Relate:
    """Compares the contents of two tokenizer.json."""

    def compare(student: object, teacher: object) -> Relation:
        for name, content in (("student", student), ("teacher", teacher)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "tokenizer.json").write_text(json.dumps(content))
        return relate(tmp_path / "student", tmp_path / "teacher")

    return compare


def test_the_same_tokenizer_is_the_same_however_it_pads(related: Relate) -> None:
    relation = related(BASE, {**BASE, "padding": {"pad_id": 3}, "truncation": {"max_length": 9}})
    assert relation.kind == "same"
    assert relation.size == len(tokens_of(BASE))
    assert relation.explanation == "the tokenizers are the same, with 262 tokens"
    assert relation.to_student().tolist() == list(range(262))


def test_what_is_put_around_texts_makes_no_other_tokenizer(related: Relate) -> None:
    relation = related(BASE, {**BASE, "post_processor": {"type": "ByteLevel"}})
    assert (relation.kind, relation.unshared) == ("same", frozenset())


def test_merge_rules_of_the_old_form_are_the_same(related: Relate) -> None:
    old: dict[str, Any] = copy.deepcopy(BASE)
    old["model"]["merges"] = [" ".join(rule) for rule in old["model"]["merges"]]
    assert related(BASE, old).kind == "same"


def test_added_tokens_make_a_superset(related: Relate) -> None:
    more = byte_level(MERGES, ("<|end|>", "<think>", "</think>"))
    relation = related(byte_level(MERGES), more)
    assert relation.kind == "superset"
    assert relation.unshared == {260, 261}
    assert relation.size == 262
    assert "2 tokens ('</think>', '<think>') that are not in both" in relation.explanation
    assert relation.to_student()[258:].tolist() == [258, 259, UNMATCHED, UNMATCHED]


def test_an_added_token_in_the_table_of_the_model_is_still_an_added_one(related: Relate) -> None:
    more = byte_level(MERGES, ("<|end|>", "<think>"))
    more["model"]["vocab"] |= {"<|end|>": 259, "<think>": 260}
    assert related(byte_level(MERGES), more).unshared == {260}


def test_a_renamed_token_leaves_those_after_it_shared(related: Relate) -> None:
    ours = byte_level(MERGES, ("<|spare|>", "<|end|>"))
    theirs = byte_level(MERGES, ("<think>", "<|end|>"))
    relation = related(ours, theirs)
    assert relation.kind == "superset"
    assert relation.unshared == {259}


def test_other_merge_rules_are_another_tokenizer(related: Relate) -> None:
    other = byte_level([MERGES[1], MERGES[0], MERGES[2]])
    other["model"]["vocab"] = byte_level(MERGES)["model"]["vocab"]
    relation = related(byte_level(MERGES), other)
    assert relation.kind == "different"
    assert relation.explanation == (
        "the tokenizers differ in merge rules, so tokens have to be aligned"
    )


def test_another_normalizer_is_another_tokenizer(related: Relate) -> None:
    assert (
        "differ in normalizer,"
        in related(BASE, {**BASE, "normalizer": {"type": "NFC"}}).explanation
    )


def test_other_scores_are_another_tokenizer(related: Relate) -> None:
    ours = json.loads(unigram().to_str())
    theirs = copy.deepcopy(ours)
    theirs["model"]["vocab"][5][1] -= 1.0
    assert "differ in tokens," in related(ours, theirs).explanation


def test_the_same_tokens_under_other_ids_are_different(related: Relate) -> None:
    relation = related(byte_level(MERGES), byte_level(MERGES, turn=7))
    assert relation.kind == "different"
    assert relation.explanation.startswith("259 tokens (")
    assert "have other ids in the teacher's tokenizer" in relation.explanation


def test_as_many_other_tokens_are_different(related: Relate) -> None:
    assert related(byte_level([("h", "e")]), byte_level([("c", "a")])).kind == "different"


def test_a_model_without_a_tokenizer_is_different(tmp_path: Path) -> None:
    assert "vocabulary of the student cannot be told" in relate(tmp_path, tmp_path).explanation


def test_files_of_different_kinds_are_different(tmp_path: Path) -> None:
    for name, file, content in (
        ("student", "tokenizer.json", ONE),
        ("teacher", "vocab.json", tokens_of(ONE)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(content))
    assert (
        "different kinds of files"
        in relate(tmp_path / "student", tmp_path / "teacher").explanation
    )
