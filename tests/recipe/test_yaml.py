"""YAML is read as plain data of version 1.2; everything else is one line with file and line."""

from __future__ import annotations

import math
import time

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.recipe.yaml import MAX_BYTES, MAX_DEPTH, parse, with_merge_keys


def refusal(text: str) -> str:
    with pytest.raises(RecipeError, match=r"^r\.yaml") as caught:
        parse(text, "r.yaml")
    return str(caught.value)


def alias_bomb() -> str:
    lines = [f"a0: &a0 [{', '.join('x' * 9)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1e-5", 1e-5),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("-12", -12),
        ("+3", 3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x_", "0x_"),
        ("0b11", "0b11"),
        ("=", "="),
        ("<<", "<<"),
        ("~", None),
        ("null", None),
        ("", None),
        (".Inf", math.inf),
        ("-.inf", -math.inf),
        ("1e400", math.inf),
        ("'5'", "5"),
        ('"~"', "~"),
        ("|\n  5", "5"),
        (">-\n  no", "no"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text, value):
    found = parse(f"key: {text}", "r.yaml").data["key"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", ["010", "-017", "08"])
def test_a_number_whose_base_depends_on_the_version_of_yaml_is_refused(text):
    with pytest.raises(RecipeError, match=rf"r.yaml:1: {text}: YAML 1.1 reads this in base 8"):
        parse(f"key: {text}", "r.yaml")
    assert parse(f"key: '{text}'", "r.yaml").data == {"key": text}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}",
        "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], z: 5}",
        "a: &a {x: &x {y: 1}}\nb: [{<<: *a}, {<<: *x, y: 2}]",
    ],
)
def test_merge_keys_can_be_followed_as_pyyaml_does(text):
    assert with_merge_keys(parse(text, "r.yaml").data) == pyyaml.safe_load(text)


def test_not_a_number_is_read_as_such():
    assert math.isnan(parse("a: .NaN", "r.yaml").data["a"])


def test_a_yaml_1_1_directive_changes_nothing():
    assert parse("%YAML 1.1\n---\na: yes\n", "r.yaml").data == {"a": "yes"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_ending_counts_as_one_line(end):
    document = parse(end.join(["a: 1", "", "b: 2"]), "r.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.at(("b",)) == "r.yaml:3"


def test_keys_and_list_entries_know_their_lines():
    document = parse("a:\n  - x\n  - b:\n      c: 1\n", "r.yaml")
    assert document.at(("a", 1)) == "r.yaml:3"
    assert document.at(("a", 1, "b", "c")) == "r.yaml:4"


def test_a_path_that_is_not_there_has_the_line_of_its_nearest_parent():
    document = parse("a:\n  b: 1\n", "r.yaml")
    assert document.at(("a", "c", 0)) == "r.yaml:1"


def test_an_alias_stands_for_a_copy():
    document = parse("a: &x {b: [1, 2]}\nc: *x\nd: [*x]\n", "r.yaml")
    assert document.data == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": [{"b": [1, 2]}]}
    document.data["c"]["b"].append(3)
    assert document.data["a"] == {"b": [1, 2]}


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_text_is_refused(text):
    assert refusal(text) == "r.yaml: is empty"


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("base: [a\nsources: b", "2:8", "sources: b"),
        ("base: x: y", "1:8", "base: x: y"),
        ("base: 'x", "1:9", "base: 'x"),
        ("a: 1\nb: @c", "2:4", "b: @c"),
        ("a:\n\tb: 1", "2:1", "b: 1"),
        ("a: 1\nb: \x07", "2:4", r"b: \x07"),
    ],
)
def test_a_syntax_error_names_line_and_column_and_shows_the_line(text, place, line):
    message = refusal(text)
    assert message.startswith(f"r.yaml:{place}: not valid YAML, ")
    assert line in message
    assert "\n" not in message


def test_a_long_line_is_shortened_in_the_message():
    assert len(refusal("a: b: " + "c" * 5000)) < 250


def test_a_duplicate_key_names_both_lines():
    assert refusal("a: 1\nb:\n  c: 1\n  c: 2\n") == "r.yaml:4: 'c' is given twice, first in line 3"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [ls]",
        "a: !custom 1",
        "a: !!float x",
        "a: !!int '5'",
        "a: !!str 5",
        "a: ! 5",
        "!!map {a: 1}",
        "a: !!timestamp 2024-01-01",
        "a: !!binary aGk=",
        "%TAG ! tag:example.com,2000:\n---\na: !b 1",
    ],
)
def test_every_tag_is_refused(text):
    assert "tags such as" in refusal(text)


@pytest.mark.parametrize("text", ["!!str a: 1", "? [a, b]\n: 1", "? {a: b}\n: 1", "*x : 1"])
def test_a_key_must_be_a_plain_word(text):
    assert refusal(text) == "r.yaml:1: a key must be a plain word"


@pytest.mark.parametrize("text", ["a: *b", "a: &b [*b]", "&b a: 1\nc: *b"])
def test_an_alias_to_nothing_finished_is_refused(text):
    assert "*b stands for nothing that ends above it" in refusal(text)


def test_two_documents_are_refused():
    assert refusal("a: 1\n---\nb: 2\n") == "r.yaml:2: a second document starts here; give one"


def test_an_alias_bomb_is_refused_within_a_second():
    start = time.monotonic()
    assert "too many entries or aliases" in refusal(alias_bomb())
    assert time.monotonic() - start < 1


def test_aliases_count_towards_the_depth():
    halves = "[" * (MAX_DEPTH // 2) + "1" + "]" * (MAX_DEPTH // 2)
    text = f"a: &a {halves}\nb: {halves.replace('1', '*a')}"
    assert refusal(text) == f"r.yaml:2: nested deeper than {MAX_DEPTH} levels"


def test_thousands_of_nested_lists_are_refused():
    message = refusal("a: " + "[" * 3000 + "]" * 3000)
    assert message == f"r.yaml:1: nested deeper than {MAX_DEPTH} levels"


def test_the_greatest_depth_is_accepted():
    text = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert parse(text, "r.yaml").data
    assert "nested deeper" in refusal(f"[{text}]")


def test_a_huge_text_is_refused_before_it_is_parsed():
    assert refusal("x" * (MAX_BYTES + 1)) == "r.yaml: larger than 1,000,000 bytes; not a recipe"


def test_too_many_entries_are_refused(monkeypatch):
    monkeypatch.setattr("evomerge.recipe.yaml.MAX_NODES", 1000)
    assert parse("- 1\n" * 999, "r.yaml").data
    assert refusal("- 1\n" * 2000) == "r.yaml:1000: too many entries or aliases"


def test_a_number_of_absurd_length_is_refused():
    assert refusal(f"a: 1\nb: {'9' * 5000}") == "r.yaml:2: a number of 5000 digits"


@given(st.text(alphabet="ab:- \n\t[]{},&*!|>'\"%@#?~0.1e", max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse(text, "r.yaml")
    except RecipeError as error:
        assert "\n" not in str(error)  # noqa: PT017 (both outcomes are right)


LEAVES = st.none() | st.booleans() | st.integers() | st.text("abc 0:-#'\"\n", max_size=8)


@given(
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1", max_size=3), inner)
        ),
        max_leaves=8,
    )
)
def test_what_pyyaml_writes_is_read_back(data):
    # PyYAML quotes what either version of YAML could take for something else.
    assert parse(pyyaml.safe_dump({"k": data}), "r.yaml").data == {"k": data}
