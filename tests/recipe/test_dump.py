"""YAML that is written means the same to every reader, of version 1.1 or 1.2."""

from __future__ import annotations

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.recipe import yaml
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.search import SearchRecipe

TRAPS = [
    "no", "NO", "y", "on", "true", "null", "~", "", " ", "1e-5", "1e5", "12:30", "1:2:3", "0o17",
    "017", "0x1f", "1_000", "+1", ".5", ".inf", ".NaN", "2024-01-01", "=", "<<", "a: b", "a #b",
    "- a", "?", "[a", "{a", "&a", "*a", "!a", "%a", "@a", "`a", "'", '"', "\\", "\t", "a\nb", "a ",
    "\x00", "\x85", "\u2028", "\ufeff", "é", "😀", "x" * 300, "a " * 6000, ".", "..", "...", "---",
]  # fmt: skip


@pytest.mark.parametrize("text", TRAPS)
def test_a_text_stays_text_as_value_and_as_key(text):
    written = to_yaml({"value": text, "list": [text], text: 1})
    expected = {"value": text, "list": [text], text: 1}
    assert pyyaml.safe_load(written) == expected
    assert yaml.parse(written, "x").data == expected


@pytest.mark.parametrize("number", [1e-05, 1e16, 1e22, 5e-324, 1.7e308, -2.5e-7, 0.0, 0.1, -0.0])
def test_a_number_stays_a_number_in_both_versions(number):
    written = to_yaml({"value": number, "list": [number]})
    assert pyyaml.safe_load(written) == {"value": number, "list": [number]}
    assert yaml.parse(written, "x").data == {"value": number, "list": [number]}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(TRAPS)
LEAVES = (
    TEXTS | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans()
) | st.none()


@given(
    st.recursive(
        LEAVES,
        lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3),
        max_leaves=6,
    )
)
def test_any_data_means_the_same_to_both_readers(data):
    written = to_yaml({"data": data})
    assert pyyaml.safe_load(written) == {"data": data}
    assert yaml.parse(written, "x").data == {"data": data}


def test_a_recipe_is_written_for_people():
    recipe = MergeRecipe.model_validate(
        {
            "base": "models/base",
            "sources": ["models/one", "org/two@main"],
            "operator": "linear",
            "parameters": {"weight": [{"value": 0.25, "layers": [0, 8]}, {"value": 1}]},
        }
    )
    assert to_yaml(recipe) == (
        "base: models/base\n"
        "sources:\n"
        "  - model: models/one\n"
        "  - model: org/two@main\n"
        "operator: linear\n"
        "parameters:\n"
        "  weight:\n"
        "    - value: 0.25\n"
        "      layers: [0, 8]\n"
        "    - value: 1.0\n"
    )


def test_a_search_recipe_reads_back():
    recipe = SearchRecipe.model_validate(
        {
            "base": "models/base",
            "sources": ["models/one"],
            "evaluation": {"tasks": ["sums", {"name": "12:30", "weight": 1e-05}]},
            "genome": {"ranges": {"weight": [0, 1.5]}, "fixed": {"normalize": True}},
        }
    )
    assert SearchRecipe.model_validate(pyyaml.safe_load(to_yaml(recipe))) == recipe
