"""Promise: a refine set is read as written, once each, and split by content alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.refinement.texts.examples import (
    Content,
    Example,
    Message,
    in_words,
    read_examples,
    validation_part,
)
from evomerge.run.preparation.leakage import refuse_items
from evomerge.sensitivity.calibration import Prompted

if TYPE_CHECKING:
    from pathlib import Path

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]

WHERE = ("refine.data", "held-out")


def write(folder: Path, *records: object) -> Path:
    file = folder / "refine.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_texts_prompts_and_chats_are_read_with_their_domains(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"text": "a\nb"},
        {"prompt": "2 + 2 =", "completion": " 4", "domain": "sums"},
        {"messages": CHAT, "domain": None},
    )
    found = read_examples(file).examples
    assert [example.content for example in found] == [
        "a\nb",
        Prompted("2 + 2 =", " 4"),
        (Message("user", "hi"), Message("assistant", "hello")),
    ]
    assert [example.domain for example in found] == [None, "sums", None]
    assert found[1].where == f"{file}: line 2"


def test_a_text_file_has_an_example_per_line(tmp_path: Path) -> None:
    file = tmp_path / "refine.txt"
    file.write_text("one\n\n two \n")
    assert [example.content for example in read_examples(file).examples] == ["one", "two"]


def test_what_was_read_before_is_dropped_and_counted(tmp_path: Path) -> None:
    pair = {"prompt": "ab", "completion": "c"}
    file = write(tmp_path, pair, pair | {"domain": "x"}, {"text": "abc"}, {"messages": CHAT})
    found = read_examples(file)
    assert len(found.examples) == 3
    assert found.duplicates == 1
    assert found.examples[0].domain is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": 3}, r"line 2 has text \(int\); expected 'text', or 'prompt' and"),
        ({"prompt": "a"}, r"line 2 has prompt \(str\); expected"),
        ({"text": "a", "domain": 3}, r"line 2 has text \(str\), domain \(int\); expected"),
        ({"messages": []}, r"line 2 has messages \(list\); expected"),
        ({"messages": CHAT[:1]}, "at least one of the role 'assistant'"),
        ({"messages": [*CHAT, {"role": "user", "content": None}]}, r"line 2 has messages"),
        ({"messages": ["hi"]}, r"line 2 has messages \(list\)"),
        ([1], "line 2 has list; expected"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, record: object, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_examples(write(tmp_path, {"text": "fine"}, record))


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
KEYS = st.sampled_from(["text", "prompt", "completion", "messages", "domain", "role", "content"])
RECORDS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(record=RECORDS)
def test_any_json_is_an_example_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, record: object
) -> None:
    file = write(tmp_path_factory.mktemp("any"), record)
    found, message = (), ""
    try:
        found = read_examples(file).examples
    except RecipeError as error:
        message = str(error)
    assert len(found) == 1 or message.startswith(f"{file}: line 1 has ")
    assert "\n" not in message
    assert len(in_words(found)) >= len(found)


def test_the_kind_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"a\.csv: refine data are read from \.txt and"):
        read_examples(tmp_path / "a.csv")


def examples_of(texts: list[str], domain: str | None = None) -> list[Example]:
    return [Example(content=text, domain=domain) for text in texts]


@given(texts=st.lists(st.text(max_size=5), unique=True, min_size=2), data=st.data())
def test_the_validation_part_follows_from_the_contents_alone(
    texts: list[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(texts))
    parts = [
        {order[index] for index in validation_part(examples_of(order), 0.2)}
        for order in (texts, shuffled)
    ]
    assert parts[0] == parts[1]
    assert len(parts[0]) == max(1, round(0.2 * len(texts)))


def test_every_domain_gives_its_share_and_keeps_an_example() -> None:
    many, two, one = (
        examples_of([f"{domain} {n}" for n in range(count)], domain)
        for domain, count in (("many", 40), ("two", 2), ("one", 1))
    )
    chosen = validation_part([*many, *two, *one], 0.1)
    assert len([index for index in chosen if index < 40]) == 4
    assert len([index for index in chosen if 40 <= index < 42]) == 1
    assert 42 not in chosen
    assert validation_part(many, 0.0) == frozenset()


@pytest.mark.parametrize(
    "content",
    [
        "Question: Which is the largest planet of our sun? Jupiter",
        Prompted("Which is the largest planet", " of our sun?"),
        (Message("user", "Which is the largest planet of our sun?"), Message("assistant", "-")),
    ],
)
def test_held_out_items_are_found_in_the_words_of_examples(content: Content) -> None:
    words = in_words([Example(content=content)])
    with pytest.raises(RecipeError, match="contains 1 held-out item"):
        refuse_items(["Which is the largest planet of our sun?"], {"refine": words}, *WHERE)


def test_a_short_held_out_item_is_found_as_a_prompt_or_a_turn() -> None:
    contents = (
        Prompted("2 + 2 =", " 4"),
        (Message("user", "2 + 2 ="), Message("assistant", "4")),
    )
    for content in contents:
        with pytest.raises(RecipeError, match="contains 1 held-out item"):
            refuse_items(["2 + 2 ="], {"refine": in_words([Example(content=content)])}, *WHERE)
