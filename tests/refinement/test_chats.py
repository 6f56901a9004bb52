"""Promise: of a chat, a model learns what the assistant wrote and where it stops, nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch
from chat_tokenizer import (
    ALTERNATING,
    CHATML,
    PLAIN,
    SYSTEM_LAST,
    THINKING,
    TRIMMING,
    chat_tokenizer,
)
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from evomerge.errors import RecipeError
from evomerge.refinement.texts.chats import read_chat
from evomerge.refinement.texts.examples import Message


def chat(*turns: tuple[str, str]) -> list[Message]:
    return [Message(*turn) for turn in turns]


TALK = chat(
    ("system", "Be brief."), ("user", "hi"), ("assistant", "hello"), ("user", "é?"),
    ("assistant", "oui é"),
)  # fmt: skip


def learned(template: str, messages: list[Message]) -> list[str]:
    """The texts of the runs of supervised tokens."""
    tokenizer = chat_tokenizer(template)
    ids, supervised = read_chat(tokenizer, messages)
    written = tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=False)
    assert tokenizer.decode(ids) == written
    runs = itertools.groupby(range(len(ids)), key=lambda n: bool(supervised[n]))
    return [tokenizer.decode(ids[list(run)]) for wanted, run in runs if wanted]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["hello<|stop|>", "oui é<|stop|>"]),
        (TRIMMING, ["hello<|stop|>", "oui é<|stop|>"]),
        # What a model says here begins behind a blank, and ends with one and a token.
        (SYSTEM_LAST, ["hello </s>", "oui é </s>"]),
        (THINKING, ["hello<|stop|>", "oui é<|stop|>"]),
        # Nothing ends a turn in this one.
        (PLAIN, ["hello", "oui é"]),
    ],
)
def test_only_the_assistants_turns_and_their_ends_are_learned(
    template: str, expected: list[str]
) -> None:
    assert learned(template, TALK) == expected


def test_a_template_may_cut_what_an_assistant_wrote() -> None:
    messages = chat(
        ("user", "a"), ("assistant", "<think>b</think>c"),
        ("user", "d"), ("assistant", "<think>e</think>f"),
    )  # fmt: skip
    assert learned(THINKING, messages) == ["c<|stop|>", "e</think>f<|stop|>"]
    assert learned(TRIMMING, chat(("user", "a"), ("assistant", "  b\n"))) == ["b<|stop|>"]


def test_a_turn_that_ends_with_a_space_ends_behind_it_where_offsets_leave_out_spaces() -> None:
    tokenizer = chat_tokenizer(CHATML)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    ids, supervised = read_chat(tokenizer, chat(("user", "a"), ("assistant", "b ")))
    assert tokenizer.decode(ids[supervised]) == "b <|stop|>"


def test_an_empty_turn_teaches_to_stop() -> None:
    assert learned(CHATML, chat(("user", "a"), ("assistant", ""))) == ["<|stop|>"]


@given(contents=st.lists(st.text(alphabet="ab \n<|é", max_size=6), min_size=2, max_size=6))
def test_turns_are_found_whatever_the_words(contents: list[str]) -> None:
    roles = itertools.cycle(("user", "assistant"))
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    tokenizer = chat_tokenizer(CHATML)
    ids, supervised = read_chat(tokenizer, messages)
    expected = [f"{m.content}<|stop|>" for m in messages if m.role == "assistant"]
    assert tokenizer.decode(ids[supervised]) == "".join(expected)


def test_a_turn_that_the_template_leaves_out_is_not_learned() -> None:
    ids, supervised = read_chat(
        chat_tokenizer("{{ messages[0].content }}"), chat(("user", "a"), ("assistant", "b"))
    )
    assert len(ids) == 1
    assert not torch.any(supervised)


@pytest.mark.parametrize(
    ("template", "cause"),
    [(ALTERNATING, "Roles must alternate"), (None, "chat_template is not set")],
)
def test_a_chat_that_cannot_be_written_is_named(template: str | None, cause: str) -> None:
    messages = chat(("assistant", "b"), ("user", "a"))
    with pytest.raises(RecipeError, match=rf"r\.jsonl: line 3: the model's chat temp.*{cause}"):
        read_chat(chat_tokenizer(template), messages, "r.jsonl: line 3")


def test_a_tokenizer_that_hides_its_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(RecipeError, match=r"give 'prompt' and 'completion' instead"):
        read_chat(Slow(), TALK)
