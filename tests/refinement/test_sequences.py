"""Promise: an example becomes the tokens a task would show, with the right ones to predict."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from chat_tokenizer import CHATML, chat_tokenizer

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.refinement.texts.examples import Content, Example, Message
from evomerge.refinement.texts.sequences import Sequence, check_window, make_sequences
from evomerge.sensitivity.calibration import Prompted

CHAT = (Message("user", "a"), Message("assistant", "bc"))


def made(*contents: Content, max_tokens: int = 100) -> tuple[tuple[Sequence, ...], int]:
    examples = [Example(content=content, domain="d") for content in contents]
    return make_sequences(examples, chat_tokenizer(CHATML), max_tokens)


def test_each_kind_of_example_has_its_tokens_to_predict() -> None:
    tokenizer = chat_tokenizer(CHATML)
    (text, prompted, talked), dropped = made("abc", Prompted("ab", "c"), CHAT)
    assert dropped == 0
    assert text.supervised.tolist() == [False, True, True]
    assert prompted.supervised.tolist() == [False, False, True]
    assert text.ids.tolist() == prompted.ids.tolist() == tokenizer("abc")["input_ids"]
    assert tokenizer.decode(talked.ids[talked.supervised]) == "bc<|stop|>"
    assert [sequence.domain for sequence in (text, prompted, talked)] == ["d"] * 3


def test_nothing_predicts_the_first_token() -> None:
    (one, two), _ = make_sequences(
        [Example(content=Prompted("", "ab")), Example(content=CHAT[1:])],
        chat_tokenizer("{{ messages[0].content }}"),
        100,
    )
    assert one.supervised.tolist() == two.supervised.tolist() == [False, True]


def test_sequences_are_cut_and_those_with_nothing_to_predict_dropped_and_counted() -> None:
    kept, dropped = made("abcdef", "a", "", Prompted("abcd", "e"), CHAT, "ab", max_tokens=4)
    assert dropped == 4
    assert [sequence.index for sequence in kept] == [0, 5]
    assert list(map(len, kept)) == [4, 2]


def test_examples_with_nothing_to_predict_at_all_are_refused() -> None:
    with pytest.raises(RecipeError, match="none of 2 examples has a token to predict in its fir"):
        made("a", "b")


def test_the_digest_tells_tokens_and_what_is_supervised() -> None:
    contents = ("abc", Prompted("a", "bc"), Prompted("ab", "c"), "abd")
    digests = [sequence.digest() for sequence in made(*contents)[0]]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_text_that_a_model_cannot_read_whole_is_refused() -> None:
    short, long = torch.arange(4), torch.arange(9)
    sequences = [Sequence(ids=ids, supervised=ids > 0, index=0) for ids in (short, long)]
    check_window(SimpleNamespace(config=SimpleNamespace()), sequences)
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=8))
    with pytest.raises(CompatibilityError, match="at most 8 tokens at once, and a text has 9"):
        check_window(model, sequences)
