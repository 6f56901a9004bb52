"""Tokenizers are compared by what they contain, and travel byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evomerge.checkpoints import tokenizer_digest, tokenizer_files
from evomerge.checkpoints.tokenizer import chat_template, vocabulary
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tokenizer(tmp_path, save_tokenizer) -> Path:
    save_tokenizer(tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)


def test_layout_padding_and_truncation_do_not_count(tokenizer, edit_json):
    digest = tokenizer_digest(tokenizer)
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    write(tokenizer, "tokenizer.json", json.dumps(dict(reversed(content.items())), indent=8))
    assert tokenizer_digest(tokenizer) == digest
    edit_json(tokenizer / "tokenizer.json", truncation={"max_length": 7}, padding={"length": 7})
    assert tokenizer_digest(tokenizer) == digest


def test_another_vocabulary_or_normalizer_counts(tokenizer, save_tokenizer, edit_json):
    digest = tokenizer_digest(tokenizer)
    edit_json(tokenizer / "tokenizer.json", normalizer={"type": "Lowercase"})
    lowercase = tokenizer_digest(tokenizer)
    save_tokenizer(tokenizer, ("world", "hello"))
    assert len({digest, lowercase, tokenizer_digest(tokenizer)}) == 3


def test_the_digest_is_pinned(tokenizer):
    write(tokenizer, "tokenizer.json", {"model": {"vocab": {"é": 0}}, "padding": None})
    assert tokenizer_digest(tokenizer) == (
        "c339ded01e4a36f74a803e506bd2d8878a41569c10cc96e8b8c8c21545891844"
    )


def test_older_files_have_a_digest_too(tmp_path):
    assert tokenizer_digest(tmp_path) is None
    write(tmp_path, "vocab.txt", "a\nb\n")
    words = tokenizer_digest(tmp_path)
    write(tmp_path, "vocab.json", {"a": 0})
    pairs = tokenizer_digest(tmp_path)
    write(tmp_path, "merges.txt", "a b\n")
    merged = tokenizer_digest(tmp_path)
    write(tmp_path, "tokenizer.model", "sentencepiece")
    model = tokenizer_digest(tmp_path)
    write(tmp_path, "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    digests = [words, pairs, merged, model, tokenizer_digest(tmp_path)]
    assert None not in digests
    assert len(set(digests)) == 5


@pytest.mark.parametrize(
    ("model", "added", "expected"),
    [
        ({"a": 0, "b": 1}, None, {"a": 0, "b": 1}),
        ({"a": 0}, [{"content": "<s>", "id": 1}], {"a": 0, "<s>": 1}),
        ([["a", -1.0], ["b", -2.0]], [], {"a": 0, "b": 1}),
    ],
)
def test_the_vocabulary_has_every_token_and_its_id(tmp_path, model, added, expected):
    write(tmp_path, "tokenizer.json", {"model": {"vocab": model}, "added_tokens": added})
    assert vocabulary(tmp_path) == expected


def test_the_vocabulary_of_older_files_is_read_where_it_is_text(tmp_path):
    assert vocabulary(tmp_path) is None
    write(tmp_path, "tokenizer.model", "sentencepiece")
    assert vocabulary(tmp_path) is None
    write(tmp_path, "vocab.json", {"a": 0})
    assert vocabulary(tmp_path) == {"a": 0}
    write(tmp_path, "added_tokens.json", {"<s>": 1})
    assert vocabulary(tmp_path) == {"a": 0, "<s>": 1}


@pytest.mark.parametrize(
    "content", [{}, {"model": []}, {"model": {"vocab": [1]}}, {"model": {"vocab": 1}}]
)
def test_a_tokenizer_without_vocabulary_is_refused(tmp_path, content):
    write(tmp_path, "tokenizer.json", content)
    with pytest.raises(ModelError, match=r"tokenizer.json: not a tokenizer"):
        vocabulary(tmp_path)


def test_the_files_to_copy_are_those_that_exist(tokenizer):
    for name in ("chat_template.jinja", "generation_config.json", "README.md", "model.bin"):
        write(tokenizer, name, "x")
    assert [file.name for file in tokenizer_files(tokenizer)] == [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ]


def test_a_tokenizer_file_that_links_out_of_the_folder_is_refused(tokenizer, tmp_path_factory):
    secret = tmp_path_factory.mktemp("home") / "secret"
    secret.write_text("{}")
    (tokenizer / "added_tokens.json").symlink_to(secret)
    with pytest.raises(ModelError, match="leaves the model folder"):
        tokenizer_files(tokenizer)


def test_a_chat_template_is_found_in_each_of_its_places(tokenizer, edit_json):
    assert chat_template(tokenizer) is None
    write(tokenizer, "chat_template.json", {"chat_template": "oldest"})
    assert chat_template(tokenizer) == "oldest"
    edit_json(tokenizer / "tokenizer_config.json", chat_template="old")
    assert chat_template(tokenizer) == "old"
    write(tokenizer, "chat_template.jinja", "{{ ''.__class__ }}")
    assert chat_template(tokenizer) == "{{ ''.__class__ }}"


@pytest.mark.parametrize("number", ["3", 1.5, -1, None, True])
def test_an_id_that_is_no_number_is_refused(tmp_path, number):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": number}}}))
    with pytest.raises(ModelError, match="not a tokenizer: it has no readable vocabulary"):
        vocabulary(tmp_path)
