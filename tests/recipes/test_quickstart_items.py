"""Items are divided by word or document, evenly over the choices, and repeatably."""

from __future__ import annotations

import json
from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from items import Item, split, write_items
from skills import (
    EXPRESSION_KINDS,
    WORD_CLASSES,
    expression_items,
    french_items,
    packaged_file,
    word_items,
)

if TYPE_CHECKING:
    from pathlib import Path


def documents(count: int, per_document: int = 3) -> list[tuple[Item, ...]]:
    """Documents whose first item repeats from one to the next, with two choices in turn."""
    return [
        tuple(
            Item(
                id=f"document {document}",
                question="asked everywhere" if number == 0 else f"{document}.{number}",
                answer="ab"[(document + number) % 2],
                choices=("a", "b"),
            )
            for number in range(per_document)
        )
        for document in range(count)
    ]


def test_a_document_is_only_in_one_part():
    training, evaluation = split(documents(60), train_count=40, eval_count=20, seed="0")
    assert {item.id for item in training}.isdisjoint(item.id for item in evaluation)


def test_evaluation_asks_once_about_a_document():
    _, evaluation = split(documents(60), train_count=40, eval_count=20, seed="0")
    assert len({item.id for item in evaluation}) == len(evaluation) == 20


def test_no_question_is_asked_twice():
    training, evaluation = split(documents(60), train_count=100, eval_count=20, seed="0")
    questions = [item.question for item in (*training, *evaluation)]
    assert len(set(questions)) == len(questions)


def test_every_choice_is_right_equally_often():
    for part in split(documents(60), train_count=40, eval_count=20, seed="0"):
        assert Counter(item.answer for item in part) == {"a": len(part) / 2, "b": len(part) / 2}


def test_the_order_of_the_documents_does_not_matter():
    sizes = {"train_count": 40, "eval_count": 20}
    forwards = split(documents(60), **sizes, seed="0")
    assert split(reversed(documents(60)), **sizes, seed="0") == forwards
    assert split(documents(60), **sizes, seed="1") != forwards


def test_generated_items_need_no_balance():
    groups = [(Item(id=word, question=word, answer="same"),) for word in "abcdef"]
    training, evaluation = split(groups, train_count=4, eval_count=2, seed="0")
    assert (len(training), len(evaluation)) == (4, 2)


@pytest.mark.parametrize("choices", [EXPRESSION_KINDS.values(), WORD_CLASSES.values()], ids=str)
def test_no_choice_is_a_prefix_of_another(choices):
    assert not any(long.startswith(short) for short, long in permutations(choices, 2))


def test_written_choices_end_with_a_terminator_and_keep_their_label(tmp_path: Path):
    item = Item(id="run", question="Word: run?", answer="verb", choices=("noun", "verb"))
    write_items([item], tmp_path / "items.jsonl")
    (record,) = map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines())
    assert record["choices"] == ["noun\n", "verb\n"]
    assert record["choices"][record["label"]] == "verb\n"


def test_a_written_generated_item_has_no_choices(tmp_path: Path):
    write_items([Item(id="aimer", question="?", answer="é")], tmp_path / "items.jsonl")
    (line,) = (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"id": "aimer", "question": "?", "answer": "é"}


def test_french_items_join_root_and_ending():
    imperfect = [[3, "ions"], [4, "iez"], [5, None]]
    future = [[3, "erons"], [4, "erez"], [5, "eront"]]
    endings = {"aim:er": {"Indicatif": {"Imparfait": imperfect, "Futur": future}}}
    verb = {"root": "aim", "template": "aim:er"}
    (items,) = french_items({"aimer": verb, "se laver": verb}, endings)
    assert items[0] == Item(
        id="aimer", question="French imparfait, nous, aimer:", answer="aimions"
    )
    assert len(items) == 5, "the missing person is left out, and so is the verb of two words"


def test_only_words_of_one_class_are_asked_about():
    rows = [("walk", "noun"), ("walk", "verb"), ("Paris", "noun"), ("softly", "adv", "")]
    ((item,),) = word_items(rows)
    assert (item.id, item.answer) == ("softly", "adverb")


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("names[len(x)]", "index"),
        ("sorted(names)[0] == first", "comparison"),
        ("names[0].strip()", "call"),
        ("len(names) * 'é'", "arithmetic"),
    ],
)
def test_an_expression_is_of_its_outermost_kind(expression, kind):
    items = expression_items("file.py", f"assert {expression}\n")
    answers = {item.question: item.answer for item in items}
    assert answers[f"Python expression `{expression}`, kind:"] == kind


def test_expressions_without_nesting_are_not_asked_about():
    assert expression_items("file.py", "print(a_long_name, another)\n") == ()


def test_a_missing_package_is_named():
    with pytest.raises(SystemExit, match="no-such-package is not installed"):
        packaged_file("no-such-package", "file")
