"""Promise: calibration texts are read as written, and their digest tells what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evomerge.errors import EvaluationError, RecipeError
from evomerge.sensitivity.calibration import Calibration, read_texts

if TYPE_CHECKING:
    from pathlib import Path


def test_a_text_file_has_one_document_per_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one \u2028 line\n\n  two\r\n")
    assert read_texts(file) == ("one \u2028 line", "two")


def test_a_jsonl_file_has_texts_or_prompts_with_completions(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a\\nb"}\n\n{"prompt": "2 + 2 =", "completion": " 4", "id": 7}\n')
    assert read_texts(file) == ("a\nb", "2 + 2 = 4")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a", r"a.csv: calibration texts are read from .txt and .jsonl files only"),
        ("a.txt", b"\n \n", r"a.txt: holds no text"),
        ("a.txt", b"fine\n\xff", r"a.txt: is not UTF-8 at byte 5"),
        ("a.jsonl", b'{"text": "a"}\n{', r"a.jsonl: line 2 is not JSON"),
        ("a.jsonl", b'{"question": "a"}', r"a.jsonl: line 1 has question; expected"),
        ("a.jsonl", b'{"text": 3}', r"a.jsonl: line 1 has text; expected"),
        ("a.jsonl", b"[1]", r"a.jsonl: line 1 has list; expected"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_texts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none.txt: cannot be read: No such file"):
        read_texts(tmp_path / "none.txt")


def test_texts_are_cut_and_those_of_one_token_left_out(live: tuple[Any, Any]) -> None:
    _, tokenizer = live
    calibration = Calibration(texts=("abcdef", "x", "ab", "never used"), samples=3, max_tokens=4)
    whole = tokenizer("abcdef")["input_ids"]
    found = [ids.tolist() for ids in calibration.token_ids(tokenizer)]
    assert found == [whole[:4], whole[:2]]


def test_no_text_is_longer_than_the_models_window(live: tuple[Any, Any]) -> None:
    (ids,) = Calibration(texts=("abcdef",)).token_ids(live[1], window=3)
    assert len(ids) == 3


def test_texts_that_predict_nothing_are_refused(live: tuple[Any, Any]) -> None:
    with pytest.raises(EvaluationError, match="none of 1 calibration texts has more than one"):
        Calibration(texts=("x",)).token_ids(live[1])


def test_the_digest_changes_with_what_is_measured_and_only_then() -> None:
    texts = ("a", "b", "c")
    digest = Calibration(texts=texts, samples=2).digest()
    assert digest == Calibration(texts=("a", "b", "d"), samples=2).digest()
    others = {
        Calibration(texts=texts, samples=3).digest(),
        Calibration(texts=("a", "B"), samples=2).digest(),
        Calibration(texts=("ab", ""), samples=2).digest(),
        Calibration(texts=texts, samples=2, max_tokens=7).digest(),
    }
    assert len(others | {digest}) == 5
