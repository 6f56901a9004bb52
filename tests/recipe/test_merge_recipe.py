"""A merge recipe says which value a parameter has for a tensor; its schema says what it may be."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from evomerge.layout import locate
from evomerge.recipe.lineage import MAX_DEPTH, MAX_INNER
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.search import SearchRecipe

Q_0, Q_1, Q_2 = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3))
UP_1 = "model.layers.1.mlp.up_proj.weight"
NORM_1 = "model.layers.1.input_layernorm.weight"
EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
EVERYTHING = (EMBEDDING, Q_0, Q_1, UP_1, NORM_1, Q_2, FINAL_NORM, HEAD)


def make(weight: Any = None, of_source: Any = None) -> MergeRecipe:
    return MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": [
                {"model": "one", "parameters": {} if of_source is None else {"weight": of_source}},
                "two",
            ],
            "operator": "linear",
            "parameters": {} if weight is None else {"weight": weight},
        }
    )


def value(recipe: MergeRecipe, name: str, source: int | None = 0) -> Any:
    of = None if source is None else recipe.sources[source]
    return recipe.setting("weight", name, locate(name), of)


def matches(**rule: Any) -> list[str]:
    recipe = make([{"value": 1, **rule}])
    return [name for name in EVERYTHING if value(recipe, name) == 1]


# Values


def test_a_value_holds_for_every_tensor_and_source():
    recipe = make(0.5)
    assert {value(recipe, name, source) for name in EVERYTHING for source in (0, 1)} == {0.5}


def test_without_a_value_there_is_none():
    assert value(make(), Q_0) is None


def test_a_source_comes_before_the_recipe():
    recipe = make(0.5, of_source=0.1)
    assert [value(recipe, Q_0, source) for source in (0, 1, None)] == [0.1, 0.5, 0.5]


def test_false_and_zero_are_values():
    assert value(make(0.5, of_source=0.0), Q_0) == 0.0
    assert value(make(True, of_source=False), Q_0) is False


def test_where_a_source_has_no_rule_the_recipe_is_asked():
    recipe = make(0.5, of_source=[{"value": 0.1, "component": "mlp"}])
    assert [value(recipe, name) for name in (UP_1, Q_1)] == [0.1, 0.5]


def test_the_first_rule_that_applies_counts():
    recipe = make([{"value": 1, "tensor": "q_proj"}, {"value": 2, "layers": [1, 2]}, {"value": 3}])
    assert [value(recipe, name) for name in (Q_1, UP_1, Q_2, HEAD)] == [1, 2, 1, 3]


def test_rules_may_leave_tensors_without_a_value():
    recipe = make([{"value": 1, "component": "mlp"}])
    assert [value(recipe, name) for name in (UP_1, Q_1)] == [1, None]


def test_a_range_of_layers_does_not_include_its_end():
    assert matches(layers=[0, 2]) == [Q_0, Q_1, UP_1, NORM_1]


def test_tensors_outside_the_layers_are_in_no_range():
    assert not set(matches(layers=[0, 1000])) & {EMBEDDING, FINAL_NORM, HEAD}


def test_a_component_is_in_and_outside_the_layers():
    assert matches(component="norm") == [NORM_1, FINAL_NORM]


def test_a_tensor_is_named_by_any_part_of_its_name():
    assert matches(tensor="q_proj") == [Q_0, Q_1, Q_2]
    assert matches(tensor="layers.1.") == [Q_1, UP_1, NORM_1]
    assert matches(tensor="Q_PROJ") == []


def test_all_that_a_rule_says_must_apply():
    assert matches(layers=[1, 3], component="attention", tensor="weight") == [Q_1, Q_2]


def test_a_rule_that_says_only_a_value_applies_everywhere():
    assert matches() == list(EVERYTHING)


# Sources


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ({"model": "models/one"}, "one"),
        ({"model": "models/one/"}, "one"),
        ({"model": "one"}, "one"),
        ({"model": "org/name@main"}, "name@main"),
        ({"model": "org/base+adapters/sums"}, "sums"),
        ({"model": "models/one", "name": "x"}, "x"),
        ({"candidate": "abc"}, "abc"),
    ],
)
def test_a_source_is_called_by_its_name_or_the_end_of_its_path(source, label):
    assert Source.model_validate(source).label == label


def test_two_nested_recipes_need_no_names():
    inner = {"base": "b", "sources": ["a"], "operator": "linear"}
    recipe = MergeRecipe.model_validate(
        inner | {"sources": [{"recipe": inner}, {"recipe": inner | {"seed": 1}}]}
    )
    assert len({source.label for source in recipe.sources}) == 2


def test_one_nested_recipe_in_full_and_by_digest_is_one_name_twice():
    inner = {"base": "b", "sources": ["a"], "operator": "linear"}
    label = Source.model_validate({"recipe": inner}).label
    with pytest.raises(ValidationError, match=f"two sources are called '{label}'"):
        MergeRecipe.model_validate(inner | {"sources": [{"recipe": inner}, {"candidate": label}]})


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make(0.5).seed = 1


# Schema

MERGE_EXAMPLE: dict[str, Any] = {
    "version": 1,
    "base": "models/base",
    "sources": [
        "models/one",
        {"model": "two", "parameters": {"weight": [{"value": 1, "layers": [0, 2]}]}},
        {"recipe": {"base": "b", "sources": ["a"], "operator": "linear"}},
    ],
    "operator": "ties",
    "parameters": {"weight": 0.5, "normalize": True, "rescale": "norm"},
    "dtype": "bfloat16",
    "seed": 3,
}
SEARCH_EXAMPLE: dict[str, Any] = {
    "base": "models/base",
    "sources": ["models/one", {"model": "models/two", "name": "x"}],
    "evaluation": {
        "tasks": ["sums", {"name": "words", "metric": "acc,none", "weight": 2}],
        "items": {"search": 10},
        "device": "cuda:1",
    },
    "genome": {"components": ["mlp"], "ranges": {"weight": [0, 1.5]}, "fixed": {"scale": 1}},
    "search": {"strategy": "CMA", "candidates": 20, "step": 0.3},
    "executor": {"kind": "inline"},
}
WRONG = [
    (MergeRecipe, MERGE_EXAMPLE, {"sorces": []}),
    (MergeRecipe, MERGE_EXAMPLE, {"seed": -1}),
    (MergeRecipe, MERGE_EXAMPLE, {"sources": [5]}),
    (MergeRecipe, MERGE_EXAMPLE, {"dtype": "int8"}),
    (MergeRecipe, MERGE_EXAMPLE, {"parameters": {"weight": [{"layers": [0, 1]}]}}),
    (SearchRecipe, SEARCH_EXAMPLE, {"search": {"candidates": 0}}),
    (SearchRecipe, SEARCH_EXAMPLE, {"search": {"sede": 0}}),
    (SearchRecipe, SEARCH_EXAMPLE, {"evaluation": {"tasks": [{"weight": 1}]}}),
    (SearchRecipe, SEARCH_EXAMPLE, {"evaluation": {}}),
    (SearchRecipe, SEARCH_EXAMPLE, {"genome": {"ranges": {"weight": [0]}}}),
]


@pytest.mark.parametrize(
    ("model", "example"), [(MergeRecipe, MERGE_EXAMPLE), (SearchRecipe, SEARCH_EXAMPLE)]
)
def test_the_json_schema_accepts_what_the_recipe_accepts(model, example):
    schema = model.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example, schema)
    assert model.model_validate(example)


@pytest.mark.parametrize(("model", "example", "change"), WRONG)
def test_the_json_schema_refuses_what_the_recipe_refuses(model, example, change):
    with pytest.raises(jsonschema.ValidationError, match=r"."):
        jsonschema.validate(example | change, model.model_json_schema())
    with pytest.raises(ValidationError, match=r"."):
        model.model_validate(example | change)


@pytest.mark.parametrize("model", [MergeRecipe, SearchRecipe])
def test_the_json_schema_describes_every_section_and_key(model):
    schema = model.model_json_schema()
    for section in [*schema["$defs"].values(), *([schema] if "properties" in schema else [])]:
        assert section["description"]
        assert "Attributes:" not in section["description"]
        for name, key in section.get("properties", {}).items():
            assert key.get("description"), f"{section['title']}.{name}"


def nested(depth: int, width: int) -> dict[str, Any]:
    sources: list[Any] = ["one"]
    if depth > 1:
        inner = nested(depth - 1, width)
        sources = [{"recipe": inner, "name": str(number)} for number in range(width)]
    return {"base": "base", "sources": sources, "operator": "linear"}


def wide(count: int) -> dict[str, Any]:
    inner = [
        {"base": "base", "sources": ["one"], "operator": "linear", "seed": n} for n in range(count)
    ]
    sources = [{"recipe": recipe} for recipe in inner]
    return {"base": "base", "sources": sources, "operator": "linear"}


@pytest.mark.parametrize(
    ("most", "more", "found"),
    [
        (nested(MAX_DEPTH, 1), nested(MAX_DEPTH + 1, 1), f"{MAX_DEPTH + 1} deep"),
        (wide(MAX_INNER), wide(MAX_INNER + 1), f"{MAX_INNER + 1} in number"),
    ],
    ids=["deep", "many"],
)
def test_recipes_nested_without_end_are_refused(most, more, found):
    MergeRecipe.model_validate(most)
    with pytest.raises(ValidationError, match=f"nested recipes are {found}, at most"):
        MergeRecipe.model_validate(more)


def test_an_ancestor_counts_once_however_often_it_is_written():
    MergeRecipe.model_validate(nested(7, 3))
