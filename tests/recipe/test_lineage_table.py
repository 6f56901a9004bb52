"""Promise: a file holds every recipe of a lineage once, and is read back as the same lineage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.digest import digest
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.lineage import MAX_DEPTH, ancestry, as_document
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe


def make(*sources: Any, **more: Any) -> MergeRecipe:
    return MergeRecipe.model_validate(
        {"base": "base", "sources": list(sources), "operator": "linear", **more}
    )


def read(text: str) -> MergeRecipe:
    return validate(MergeRecipe, yaml.parse(text, "r.yaml"))


GRANDPARENT = make("one", "two")
PARENT = make("one", {"recipe": GRANDPARENT}, seed=1)
CHILD = make({"recipe": GRANDPARENT}, {"recipe": PARENT}, base_recipe=GRANDPARENT)


def twins(generations: int) -> MergeRecipe:
    """A lineage of which every generation has two merges of the two before."""
    one, two = make("one"), make("two")
    for seed in range(generations):
        sources = [{"recipe": one, "name": "one"}, {"recipe": two, "name": "two"}]
        one, two = make(*sources, seed=2 * seed), make(*sources, seed=2 * seed + 1)
    return one


@st.composite
def lineages(draw: st.DrawFn) -> MergeRecipe:
    made = [make("one"), make("two")]
    for seed in range(draw(st.integers(1, 8))):
        parents = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
        sources = [{"recipe": each, "name": str(n)} for n, each in enumerate(parents)]
        base = draw(st.none() | st.sampled_from(made))
        made.append(make(*sources, "three", seed=seed, base_recipe=base))
    return made[-1]


def test_ancestors_are_listed_once_after_their_own() -> None:
    assert ancestry([CHILD]) == [GRANDPARENT, PARENT]


def test_a_table_has_every_ancestor_once_by_its_digest() -> None:
    grandparent, parent = (digest(each)[:12] for each in (GRANDPARENT, PARENT))
    assert as_document(CHILD) == {
        "base": "base",
        "base_recipe": grandparent,
        "sources": [{"recipe": grandparent}, {"recipe": parent}],
        "operator": "linear",
        "recipes": {
            grandparent: as_document(GRANDPARENT),
            parent: {
                "base": "base",
                "sources": [{"model": "one"}, {"recipe": grandparent}],
                "operator": "linear",
                "seed": 1,
            },
        },
    }


@settings(max_examples=50)
@given(lineages())
def test_what_is_written_is_read_as_the_same_lineage(recipe: MergeRecipe) -> None:
    for again in (read(to_yaml(recipe)), MergeRecipe.model_validate(as_document(recipe))):
        assert again == recipe
        assert digest(again) == digest(recipe)
        assert again.recipes == {}
    as_json = json.dumps(as_document(recipe))
    assert digest(MergeRecipe.model_validate_json(as_json)) == digest(recipe)


@settings(max_examples=50)
@given(lineages())
def test_recipes_in_full_have_the_digest_of_those_in_a_table(recipe: MergeRecipe) -> None:
    in_full = recipe.model_dump(mode="json", exclude_defaults=True)
    assert "recipes" not in in_full
    assert digest(MergeRecipe.model_validate(in_full)) == digest(recipe)


def test_a_lineage_of_many_paths_is_as_long_as_its_merges_are_many() -> None:
    recipe = twins(MAX_DEPTH - 1)
    text = to_yaml(recipe)
    assert text.count("operator:") == 1 + len(ancestry([recipe])) == 2 * MAX_DEPTH - 1
    assert digest(read(text)) == digest(recipe)


def test_names_may_be_any_words_and_stand_in_any_order() -> None:
    text = """
base: base
base_recipe: old
sources: [{recipe: old}, {recipe: young}]
operator: linear
recipes:
  young: {base: base, sources: [one, {recipe: old}], operator: linear, seed: 1}
  old: {base: base, sources: [one, two], operator: linear}
"""
    assert read(text) == CHILD


def test_a_recipe_in_full_may_name_recipes() -> None:
    text = """
base: base
sources: [{recipe: {base: base, sources: [one, {recipe: old}], operator: linear, seed: 1}}]
operator: linear
recipes: {old: {base: base, sources: [one, two], operator: linear}}
"""
    assert read(text) == make({"recipe": PARENT})


START = "base: b\nsources: [{recipe: x}]\noperator: linear\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (START, r"^r.yaml:2: sources.0.recipe: no recipe is called 'x'; give it in recipes, at"),
        (START + "recipes: {y: {}}\n", r"^r.yaml:4: recipes.y.base: is missing\n"),
        (START + "recipes: [1]\n", r"\nr.yaml:4: recipes: expected keys and values, found \[1\]$"),
        (
            START + "recipes:\n  x: {base: b, sources: [{recipe: x}], operator: linear}\n",
            r"^r.yaml:1: recipes.x: is merged from itself$",
        ),
        (
            START + "recipes:\n  x: {base: b, sources: [{recipe: z}], operator: linear}\n",
            r"^r.yaml:1: recipes: has no 'z', which is named$",
        ),
        (
            START + "recipes:\n  x:\n    base: b\n    sources: []\n    operatr: linear\n",
            r"^r.yaml:7: recipes.x.sources: give at .*\n.*\nr.yaml:8: recipes.x.operatr: unknown",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told_by_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(text)


def test_a_copy_with_other_fields_has_another_digest() -> None:
    assert digest(CHILD) == digest(CHILD.model_copy())
    other = CHILD.model_copy(update={"seed": 9})
    assert digest(other) == digest(MergeRecipe.model_validate(as_document(CHILD) | {"seed": 9}))


def test_a_table_stands_in_the_outermost_recipe_only() -> None:
    inner = {"base": "base", "sources": ["one"], "recipes": {"q": as_document(make("two"))}}
    entry = {**inner, "operator": "linear"}
    with pytest.raises(RecipeError, match="recipes: stands in the outermost recipe only"):
        validate(
            MergeRecipe,
            yaml.parse(
                json.dumps(
                    {
                        "base": "base",
                        "operator": "linear",
                        "sources": [{"recipe": "p"}],
                        "recipes": {"p": entry},
                    }
                ),
                "r.yaml",
            ),
        )
