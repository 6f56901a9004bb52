"""The tokenizer of a merge is one that its users can load, with the planned ids."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from vocabulary_family import BASE, ONE, TWO, build_model, byte_level, tokens_of

from evomerge.checkpoints import tokenizer_files
from evomerge.errors import MergeError, ModelError
from evomerge.merging.vocabulary.plan import plan_vocabulary
from evomerge.merging.vocabulary.tokenizer_files import with_chat_template, write_tokenizer
from evomerge.merging.vocabulary.tokenizer_json import rewrite_tokenizer
from evomerge.recipe.vocabulary import TokenizerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXT = "hello cat dog<|im_start|> where wo<|end|>"


def union_of(first: dict[str, Any], *others: dict[str, Any], **settings: Any) -> dict[str, int]:
    tokenizers = {"base": first} | {str(n): other for n, other in enumerate(others)}
    vocabularies = {name: tokens_of(tokenizer) for name, tokenizer in tokenizers.items()}
    plan = plan_vocabulary(vocabularies, "base", TokenizerSettings.model_validate(settings))
    return plan.vocabulary()


def rewrite(
    first: dict[str, Any], others: Sequence[dict[str, Any]], ids: dict[str, int]
) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(rewrite_tokenizer(first, others, ids)))


def test_the_tokenizer_of_a_union_has_the_planned_ids():
    ids = union_of(BASE, ONE, TWO)
    assert rewrite(BASE, [ONE, TWO], ids).get_vocab() == ids


def test_the_tokenizer_of_a_union_uses_the_tokens_of_all():
    tokenizer = rewrite(BASE, [ONE, TWO], union_of(BASE, ONE, TWO))
    assert tokenizer.encode(TEXT).tokens == [
        *("hello", "Ġ", "cat", "Ġ", "dog", "<|im_start|>"),
        *("Ġw", "her", "e", "Ġwo", "<|end|>"),
    ]


def test_a_text_without_new_tokens_is_split_as_the_base_splits_it():
    tokenizer = rewrite(BASE, [ONE, TWO], union_of(BASE, ONE, TWO))
    text = "hello hell, will well"
    assert tokenizer.encode(text).ids == Tokenizer.from_str(json.dumps(BASE)).encode(text).ids


def test_special_tokens_stay_special():
    tokenizer = rewrite(BASE, [ONE, TWO], union_of(BASE, ONE, TWO))
    ids = tokenizer.encode("a<|im_start|>b<|end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|im_start|>b<|end|>"


def test_a_token_of_no_model_is_found_in_texts():
    ids = union_of(BASE, source="base", tokens={"<new>": {}})
    assert rewrite(BASE, [], ids).encode("a<new>b").tokens == ["a", "<new>", "b"]


def test_dropped_tokens_are_spelt_with_those_that_are_left():
    ids = union_of(BASE, TWO, source="intersection")
    tokenizer = rewrite(BASE, [TWO], ids)
    assert tokenizer.get_vocab() == ids
    assert tokenizer.encode("hello").tokens == ["he", "l", "l", "o"]


def test_a_rule_whose_part_was_dropped_goes_with_it():
    ids = {token: number for token, number in tokens_of(BASE).items() if token != "hell"}
    assert rewrite(BASE, [], ids).encode("hello").tokens == ["he", "ll", "o"]


def test_rules_written_as_one_text_are_understood():
    old = copy.deepcopy(ONE)
    old["model"]["merges"] = [" ".join(pair) for pair in ONE["model"]["merges"]]
    ids = union_of(BASE, ONE)
    assert rewrite(BASE, [old], ids).encode("cat").tokens == ["cat"]


def test_tokens_around_texts_get_their_new_ids():
    first = copy.deepcopy(BASE)
    piece = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    special = {"id": "<|end|>", "ids": [tokens_of(BASE)["<|end|>"]], "tokens": ["<|end|>"]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, piece],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|end|>": special},
    }
    first["post_processor"] = {"type": "Sequence", "processors": [template]}
    first["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": special["ids"][0],
        "pad_type_id": 0,
        "pad_token": "<|end|>",
    }
    ids = union_of(first, TWO, source="intersection")
    assert ids["<|end|>"] != special["ids"][0]
    tokenizer = rewrite(first, [TWO], ids)
    assert tokenizer.encode("a").ids == [ids["a"], ids["<|end|>"]]
    assert tokenizer.padding["pad_id"] == ids["<|end|>"]


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_ends_of_texts_get_their_new_ids(kind):
    first = byte_level([("h", "e"), ("l", "l")], ("<s>", "</s>"))
    old = tokens_of(first)
    settings = {"trim_offsets": True, "add_prefix_space": False} if "Rob" in kind else {}
    ends = {"sep": ["</s>", old["</s>"]], "cls": ["<s>", old["<s>"]]}
    first["post_processor"] = {"type": kind, **ends, **settings}
    ids = union_of(first, byte_level([], ("</s>", "<s>")), source="intersection")
    assert rewrite(first, [], ids).encode("a").ids == [ids["<s>"], ids["a"], ids["</s>"]]


def test_a_token_that_the_tokenizer_needs_may_not_be_dropped():
    first = copy.deepcopy(BASE)
    first["model"]["unk_token"] = "hello"
    message = "needs the token 'hello', which the result would lack"
    with pytest.raises(MergeError, match=message):
        rewrite_tokenizer(first, [TWO], union_of(BASE, TWO, source="intersection"))


def unigram(tokens: dict[str, float], unknown: int | None = 0) -> dict[str, Any]:
    vocabulary = [[token, score] for token, score in tokens.items()]
    model = {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": False}
    return {"version": "1.0", "added_tokens": [], "model": model}


def test_a_unigram_tokenizer_takes_tokens_with_their_scores():
    first = unigram({"<unk>": 0, "a": -1, "b": -1, "ab": -5})
    other = unigram({"<unk>": 0, "a": -1, "b": -1, "abb": -2})
    ids = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "abb": 4}
    tokenizer = rewrite(first, [other], ids)
    assert tokenizer.get_vocab() == ids
    assert tokenizer.encode("abb").tokens == ["abb"]  # -2 is better than -1 -1 -1
    assert tokenizer.encode("xa").ids == [0, 1]


def test_a_unigram_tokenizer_has_no_holes():
    with pytest.raises(MergeError, match="a Unigram tokenizer cannot leave ids out"):
        rewrite_tokenizer(unigram({"a": 0, "b": 0, "c": 0}, None), [], {"a": 0, "c": 2})


def test_tokenizers_of_two_kinds_have_no_union():
    other = unigram({"<unk>": 0, "new": -1})
    with pytest.raises(MergeError, match="are BPE and Unigram, which split texts"):
        rewrite_tokenizer(BASE, [other], tokens_of(BASE) | {"new": 262})


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Models of which the base has settings that speak of tokens."""
    build_model(tmp_path / "base", BASE, seed=1)
    build_model(tmp_path / "one", ONE, seed=2)
    settings = {
        "eos_token": {
            "__type": "AddedToken",
            "content": "<|end|>",
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        },
        "pad_token": None,
        "extra_special_tokens": ["<|end|>", "hello"],
        "added_tokens_decoder": {"261": {"content": "<|end|>"}},
        "chat_template": "old",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "base" / "vocab.json").write_text("{}")
    return tmp_path


def test_a_tokenizer_that_stays_the_same_is_copied_byte_for_byte(folders):
    files = write_tokenizer(folders / "base", [folders / "one"], tokens_of(BASE))
    assert files == {f.name: f.read_bytes() for f in tokenizer_files(folders / "base")}


def test_settings_follow_their_tokens(folders):
    ids = union_of(BASE, ONE, source="intersection")
    files = write_tokenizer(folders / "base", [folders / "one"], ids)
    settings = json.loads(files["tokenizer_config.json"])
    end = ids["<|end|>"]
    assert settings["extra_special_tokens"] == ["<|end|>"]
    assert list(settings["added_tokens_decoder"]) == [str(end)]
    assert settings["added_tokens_decoder"][str(end)]["special"] is True
    assert json.loads(files["generation_config.json"]) == {"eos_token_id": [end]}
    assert "vocab.json" not in files  # it would contradict tokenizer.json


def test_a_special_token_may_not_be_dropped(folders):
    ids = {token: number for token, number in tokens_of(BASE).items() if token != "<|end|>"}
    with pytest.raises(MergeError, match=r"would lack '<\|end\|>', its eos_token"):
        write_tokenizer(folders / "base", [], ids)


def test_only_a_tokenizer_json_can_be_changed(folders):
    (folders / "base" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"base: has no tokenizer\.json"):
        write_tokenizer(folders / "base", [], tokens_of(BASE))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("generation_config.json", "{"),
        ("tokenizer.json", json.dumps(BASE | {"added_tokens": 3})),
        ("tokenizer.json", json.dumps(BASE | {"model": BASE["model"] | {"merges": [["a"]]}})),
        ("tokenizer.json", json.dumps(BASE | {"post_processor": {"sep": []}})),
    ],
)
def test_a_file_that_is_broken_is_named(folders, name, content):
    (folders / "base" / name).write_text(content)
    with pytest.raises(ModelError, match=rf"base/{name}"):
        write_tokenizer(folders / "base", [folders / "one"], union_of(BASE, ONE))


@pytest.mark.slow
def test_transformers_loads_the_tokenizer_and_splits_texts_with_it(folders, tmp_path):
    ids = union_of(BASE, ONE)
    files = write_tokenizer(folders / "base", [folders / "one"], ids)
    files = with_chat_template(files, "{% for m in messages %}<{{ m.content }}>{% endfor %}")
    (tmp_path / "out").mkdir()
    for name, content in files.items():
        (tmp_path / "out" / name).write_bytes(content)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == ids
    assert tokenizer.eos_token_id == ids["<|end|>"]
    assert tokenizer("a cat<|im_end|>")["input_ids"] == [
        ids[token] for token in ("a", "Ġ", "cat", "<|im_end|>")
    ]
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<hi>"
