"""A recipe's digest stands for the model it describes: the same in every version and notation."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.recipe import yaml
from evomerge.recipe.digest import canonical_json, digest
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe

PLAIN: dict[str, Any] = {
    "base": "models/base",
    "sources": ["models/one", "models/two"],
    "operator": "task_arithmetic",
    "parameters": {"weight": 0.5},
}
RULES: dict[str, Any] = {
    "base": "models/base",
    "sources": [
        {
            "model": "models/one",
            "name": "first",
            "parameters": {
                "weight": [
                    {"value": 0.1, "layers": [0, 4], "component": "mlp"},
                    {"value": 1e-05, "tensor": "q_proj"},
                    {"value": 1},
                ]
            },
        },
        {"model": "org/two@main", "parameters": {"density": 0.25}},
    ],
    "operator": "dare_ties",
    "parameters": {"weight": 0.5, "normalize": True, "rescale": "norm"},
    "dtype": "bfloat16",
    "seed": 7,
}
NESTED: dict[str, Any] = {
    "base": "models/base",
    "sources": [{"recipe": PLAIN}, {"candidate": "ab" * 32, "name": "other"}],
    "operator": "linear",
}


def recipe(data: dict[str, Any]) -> MergeRecipe:
    return MergeRecipe.model_validate(data)


@pytest.mark.parametrize(
    ("data", "golden"),
    [
        (PLAIN, "d77feb6ebe11d87ffcb80f8e1082cc9029779930eee8823e834538a88704a72c"),
        (RULES, "58b3429fe7325e396302da649a4c680d39a65036fa215bc6f362ee2f3f928488"),
        (NESTED, "10e764f5a7c1e632f91cb2f871368e370980ef695d4f345387d6b02e223ae02e"),
    ],
)
def test_the_digest_never_changes(data, golden):
    assert digest(recipe(data)) == golden


def test_defaults_may_be_written_or_left_out():
    written = PLAIN | {"version": 1, "dtype": "base", "seed": 0}
    written["sources"] = [{"model": "models/one", "parameters": {}}, {"model": "models/two"}]
    assert digest(recipe(written)) == digest(recipe(PLAIN))


def test_the_order_of_keys_does_not_count():
    def reversed_keys(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: reversed_keys(data[key]) for key in reversed(data)}
        return [reversed_keys(entry) for entry in data] if isinstance(data, list) else data

    assert list(reversed_keys(RULES)) != list(RULES)
    assert digest(recipe(reversed_keys(RULES))) == digest(recipe(RULES))


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1, 1.0), (0, -0.0)])
def test_equal_numbers_give_equal_digests(one, other):
    of_one, of_other = (
        digest(recipe(PLAIN | {"parameters": {"weight": value}})) for value in (one, other)
    )
    assert of_one == of_other


def test_a_nested_recipe_counts_by_its_digest():
    by_digest = copy.deepcopy(NESTED)
    by_digest["sources"][0] = {"candidate": digest(recipe(PLAIN))}
    assert digest(recipe(by_digest)) == digest(recipe(NESTED))


def test_a_nested_recipe_draws_the_same_random_numbers_in_full_or_by_digest():
    # The label names the random numbers of a source.
    inner = digest(recipe(PLAIN))
    by_digest = NESTED | {"sources": [{"candidate": inner}]}
    in_full = NESTED | {"sources": [{"recipe": PLAIN}]}
    assert recipe(in_full).sources[0].label == recipe(by_digest).sources[0].label == inner


CHANGES: list[dict[str, Any]] = [
    {"base": "models/other"},
    {"sources": ["models/two", "models/one"]},
    {"sources": ["models/one"]},
    {"sources": ["models/one", "models/two", "models/three"]},
    {"sources": [{"model": "models/one", "name": "x"}, "models/two"]},
    {"sources": [{"model": "models/one", "parameters": {"weight": 0.5}}, "models/two"]},
    {"sources": [{"candidate": "models/one"}, "models/two"]},
    {"operator": "linear"},
    {"parameters": {}},
    {"parameters": {"weight": 0.50001}},
    {"parameters": {"weight": True}},
    {"parameters": {"weight": "0.5"}},
    {"parameters": {"weight": 0.5, "scale": 1.0}},
    {"parameters": {"weight": [{"value": 0.5, "layers": [0, 2]}]}},
    {"parameters": {"weight": [{"value": 0.5, "layers": [0, 3]}]}},
    {"parameters": {"weight": [{"value": 0.5, "component": "mlp"}]}},
    {"parameters": {"weight": [{"value": 0.5, "component": "norm"}]}},
    {"parameters": {"weight": [{"value": 0.5, "tensor": "mlp"}]}},
    {"parameters": {"weight": [{"value": 0.5, "tensor": "mlp"}, {"value": 0.5}]}},
    {"parameters": {"weight": [{"value": 0.5}, {"value": 0.5, "tensor": "mlp"}]}},
    {"dtype": "float32"},
    {"seed": 1},
]


def test_anything_that_changes_the_model_changes_the_digest():
    digests = [digest(recipe(PLAIN | change)) for change in ({}, *CHANGES)]
    assert len(set(digests)) == len(digests)


def test_true_and_one_are_different_values():
    digests = {digest(recipe(PLAIN | {"parameters": {"normalize": v}})) for v in (True, 1, "true")}
    assert len(digests) == 3


def test_canonical_json_is_compact_sorted_and_unescaped():
    assert canonical_json({"b": [1.0, True], "a": "é"}) == '{"a":"é","b":[1.0,true]}'


def test_canonical_json_refuses_what_json_does_not_have():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


# Round trips

WORDS = st.sampled_from(
    ["no", "1e-5", "12:30", "~", "yes", "0x1F", "0o17", ".5", "1_000", "null", "2024-01-01", "<<"]
) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.sampled_from([1e-05, 1e16, 5e-324, 1.7e308, -0.0, 0.1]) | st.floats(
    allow_nan=False, allow_infinity=False
)
NAMES = WORDS.filter(lambda word: not re.search(r"[\x00-\x1f\x7f]", word))
VALUES = NUMBERS | st.integers(-3, 3) | st.booleans() | WORDS
RULE = st.fixed_dictionaries(
    {"value": VALUES},
    optional={
        "layers": st.tuples(st.integers(0, 5), st.integers(6, 9)).map(list),
        "component": st.sampled_from(["attention", "mlp", "norm", "embedding", "head", "other"]),
        "tensor": WORDS,
    },
)
SETTINGS = st.dictionaries(WORDS, VALUES | st.lists(RULE, min_size=1, max_size=3), max_size=3)


@st.composite
def recipes(draw: st.DrawFn, *, depth: int = 1) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    sources: list[dict[str, Any]] = []
    for name in names:
        source: dict[str, Any] = {"name": name, "parameters": draw(SETTINGS)}
        if depth and draw(st.booleans()):
            source["recipe"] = draw(recipes(depth=depth - 1))
        else:
            source["model"] = draw(WORDS)
        sources.append(source)
    return {
        "base": draw(WORDS),
        "sources": sources,
        "operator": draw(WORDS),
        "parameters": draw(SETTINGS),
        "dtype": draw(st.sampled_from(["base", "float32", "bfloat16", "float16"])),
        "seed": draw(st.integers(0, 2**63)),
    }


@settings(max_examples=50)
@given(recipes())
def test_a_recipe_written_as_yaml_reads_back_as_the_same_model(data):
    first = recipe(data)
    read = validate(MergeRecipe, yaml.parse(to_yaml(first), "r.yaml"))
    assert digest(read) == digest(first)
    assert read == first


@settings(max_examples=50)
@given(recipes())
def test_a_recipe_written_as_yaml_means_the_same_to_pyyaml(data):
    text = to_yaml(recipe(data))
    ours, theirs = yaml.parse(text, "r.yaml").data, pyyaml.safe_load(text)
    assert canonical_json(theirs) == canonical_json(ours)
    assert digest(recipe(theirs)) == digest(recipe(data))
