"""Promise: what a token stands for in a text is told as bytes, for tokenizers of all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_tokenizers import byte_level, llama, unigram, vocabulary_of, word_piece

from evomerge.errors import ModelError
from evomerge.refinement.alignment.vocabulary import as_text, read_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


def spelling(tokenizer: Tokenizer, token: str) -> bytes | None:
    return vocabulary_of(tokenizer).spellings[tokenizer.token_to_id(token)]


@given(st.text(max_size=20))
def test_tokens_of_a_byte_level_tokenizer_spell_the_text(text: str) -> None:
    vocabulary, ids = vocabulary_of(byte_level()), byte_level().encode(text).ids
    assert b"".join(vocabulary.spellings[token] or b"" for token in ids) == text.encode()


@given(st.text(min_size=1, max_size=20))
def test_tokens_with_bytes_to_fall_back_to_spell_the_text_after_a_space(text: str) -> None:
    vocabulary, ids = vocabulary_of(llama()), llama().encode(text).ids
    spelled = b"".join(vocabulary.spellings[token] or b"" for token in ids)
    assert spelled == b" " + text.replace("▁", " ").encode()


@pytest.mark.parametrize(
    ("tokenizer", "token", "expected"),
    [
        (byte_level(), "Ġthe", b" the"),
        (byte_level(), "Ċ", b"\n"),
        (byte_level(), "<|end|>", b"<|end|>"),
        (llama(), "▁the", b" the"),
        (llama(), "<0x0A>", b"\n"),
        (llama(), "</s>", b"</s>"),
        (unigram(), "▁", b" "),
        (word_piece(), "the", b" the"),
        (word_piece(), "##t", b"t"),
        (word_piece(), "[SEP]", b"[SEP]"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_signs_for_word_boundaries_and_bytes_are_what_they_mean(
    tokenizer: Tokenizer, token: str, expected: bytes
) -> None:
    assert spelling(tokenizer, token) == expected


def test_incomplete_characters_stay_what_they_are_in_texts() -> None:
    assert as_text("é".encode()[:1]) != as_text("è".encode()[1:])
    assert as_text("é".encode()) == "é"


def test_words_have_no_spaces() -> None:
    vocabulary = vocabulary_of(byte_level())
    words = vocabulary.words(byte_level().encode("the  cat, the dog").ids)
    assert "".join(words) == "thecat,thedog"


@pytest.mark.parametrize("tokenizer", [byte_level(), llama(), unigram(), word_piece()])
def test_a_vocabulary_has_the_tokens_that_a_loaded_tokenizer_has(tokenizer: Tokenizer) -> None:
    tokens = vocabulary_of(tokenizer).tokens
    assert dict(zip(tokens, range(len(tokens)), strict=True)) == tokenizer.get_vocab()


def test_ids_without_a_token_have_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "▁b": 2}}}')
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary.tokens == ("a", None, "▁b")
    assert vocabulary.spellings == (b"a", None, "▁b".encode())
    assert vocabulary.texts() == ("a", None, "▁b")


def test_a_token_that_no_bytes_are_written_as_is_taken_as_it_is(tmp_path: Path) -> None:
    content = '{"model": {"vocab": {"Ġa": 0, "<a b>": 1}}, "decoder": {"type": "ByteLevel"}}'
    (tmp_path / "tokenizer.json").write_text(content)
    assert read_vocabulary(tmp_path).spellings == (b" a", b"<a b>")


def test_the_digest_tells_vocabularies_apart() -> None:
    digests = {vocabulary_of(each).digest() for each in (byte_level(), llama(), unigram())}
    assert len(digests) == 3
    assert vocabulary_of(llama()).digest() in digests


def test_a_folder_without_a_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json, which tells what its tokens"):
        read_vocabulary(tmp_path)
