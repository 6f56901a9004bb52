"""Promise: calibration texts are read as written, and their digest tells what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from evomerge.errors import EvaluationError, RecipeError
from evomerge.sensitivity.calibration import Calibration, Prompted, read_texts

if TYPE_CHECKING:
    from pathlib import Path


def test_a_text_file_has_one_document_per_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one \u2028 line\n\n  two\r\n")
    assert read_texts(file) == ("one \u2028 line", "two")


def test_a_jsonl_file_has_texts_or_prompts_with_completions(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a\\nb"}\n\n{"prompt": "2 + 2 =", "completion": " 4", "id": 7}\n')
    assert read_texts(file) == ("a\nb", Prompted("2 + 2 =", " 4"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a", r"a.csv: calibration texts are read from .txt and .jsonl files only"),
        ("a.txt", b"\n \n", r"a.txt: holds no text"),
        ("a.txt", b"fine\n\xff", r"a.txt: is not UTF-8 at byte 5"),
        ("a.jsonl", b'{"text": "a"}\n{', r"a.jsonl: line 2 is not JSON"),
        ("a.jsonl", b'{"question": "a"}', r"a.jsonl: line 1 has question \(str\); expected"),
        ("a.jsonl", b'{"text": 3}', r"a.jsonl: line 1 has text \(int\); expected"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a.jsonl: line 1 is not JSON: .* surrogates"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl: line 1 is not JSON"),
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
    found = [document.ids.tolist() for document in calibration.documents(tokenizer)]
    assert found == [whole[:4], whole[:2]]


def test_no_text_is_longer_than_the_models_window(live: tuple[Any, Any]) -> None:
    (document,) = Calibration(texts=("abcdef",)).documents(live[1], window=3)
    assert len(document.ids) == 3


def test_texts_that_predict_nothing_are_refused(live: tuple[Any, Any]) -> None:
    with pytest.raises(
        EvaluationError, match="none of 1 calibration texts has a token to predict"
    ):
        Calibration(texts=("x",)).documents(live[1])


def test_the_completion_starts_behind_the_prompt_and_a_plain_text_counts_in_full(
    live: tuple[Any, Any],
) -> None:
    texts = (Prompted("ab", "cd"), "abcd", Prompted("", "abcd"))
    found = Calibration(texts=texts).documents(live[1])
    assert [document.start for document in found] == [2, 1, 1]
    assert all(document.ids.tolist() == found[0].ids.tolist() for document in found)


@pytest.mark.parametrize(
    ("prompt", "completion", "tokens", "start"),
    [
        ("ab", "ca", "^ a b ca", 3),
        # The last token of the prompt alone is no token of the whole.
        ("abc", "a", "^ a b ca", 3),
        ("c", "ab", "^ ca b", 1),
    ],
)
def test_a_token_across_the_border_counts_and_special_tokens_do_not_matter(
    prompt: str, completion: str, tokens: str, start: int
) -> None:
    vocabulary = {token: i for i, token in enumerate(["^", ".", "a", "b", "c", "ca"])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[("c", "a")]))
    core.post_processor = TemplateProcessing(single="^ $A .", special_tokens=[("^", 0), (".", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    texts = (Prompted(prompt, completion),)
    (document,) = Calibration(texts=texts).documents(tokenizer)
    expected = [vocabulary[token] for token in [*tokens.split(), "."]]
    assert (document.ids.tolist(), document.start) == (expected, start)


def test_a_text_whose_completion_is_cut_off_is_left_out(live: tuple[Any, Any]) -> None:
    texts = (Prompted("abcd", "e"), Prompted("abc", "de"), Prompted("ab", ""))
    (document,) = Calibration(texts=texts, max_tokens=4).documents(live[1])
    assert (len(document.ids), document.start) == (4, 3)
    with pytest.raises(EvaluationError, match="a token to predict in its first 3, after the pr"):
        Calibration(texts=texts, max_tokens=3).documents(live[1])


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
    borders = ("abc", Prompted("a", "bc"), Prompted("ab", "c"))
    assert len({Calibration(texts=(text,)).digest() for text in borders}) == 3
