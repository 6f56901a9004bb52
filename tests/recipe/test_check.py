"""A recipe is held against its operator's signature, and every finding is named at once."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import MergeRecipe

GOOD: dict[str, Any] = {
    "base": "base",
    "sources": ["one", "two"],
    "operator": "ties",
    "parameters": {"weight": 0.5, "density": [{"value": 0.2, "component": "mlp"}, {"value": 1}]},
}


def findings(**changes: Any) -> list[str]:
    with pytest.raises(RecipeError, match=r".") as caught:
        check_operator(MergeRecipe.model_validate(GOOD | changes))
    return str(caught.value).split("\n")


def test_a_recipe_that_fits_gives_its_operator():
    assert check_operator(MergeRecipe.model_validate(GOOD)).name == "ties"


@pytest.mark.parametrize(
    ("operator", "sources", "parameters"),
    [
        ("linear", ["one"], {}),
        ("slerp", ["one", "two"], {"t": 0.5}),
        ("dare_ties", ["one"], {"weight": -1, "rescale": "norm", "normalize": False}),
        ("task_arithmetic", [{"model": "one", "parameters": {"weight": 1}}], {}),
    ],
)
def test_other_operators_fit_too(operator, sources, parameters):
    recipe = {"base": "b", "sources": sources, "operator": operator, "parameters": parameters}
    assert check_operator(MergeRecipe.model_validate(recipe)).name == operator


def test_an_unknown_operator_is_answered_with_the_nearest():
    assert findings(operator="tis")[0].startswith(
        "operator: unknown operator 'tis'. Did you mean 'ties'? "
    )


@pytest.mark.parametrize("sources", [["one"], ["one", "two", "three"]])
def test_the_number_of_sources_must_fit(sources):
    assert findings(operator="slerp", sources=sources, parameters={"t": 0}) == [
        f"operator: slerp takes 2 sources, found {len(sources)}"
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"weight": 1, "densty": 0.1},
            (
                "parameters.densty: ties has no such parameter; did you mean 'density'? "
                "it has: weight, density, scale, normalize"
            ),
        ),
        (
            {"weight": 1, "xyz": 1},
            "xyz: ties has no such parameter; it has: weight, density, scale, normalize",
        ),
        ({"weight": 1, "density": 1.5}, "parameters.density: 1.5 is outside [0, 1]"),
        (
            {"weight": 1, "density": [{"value": 1}, {"value": -0.5}]},
            "parameters.density: -0.5 is outside [0, 1]",
        ),
        ({"weight": 1, "density": "0.5 "}, "density: expected a number in [0, 1], got '0.5 '"),
        ({"weight": 1, "density": True}, "density: expected a number in [0, 1], got True"),
        ({"weight": 1, "normalize": 1}, "normalize: expected true or false, got 1.0"),
        ({"weight": 1, "normalize": "no"}, "normalize: expected true or false, got 'no'"),
        ({}, "parameters.weight: is missing for one, two"),
    ],
)
def test_a_parameter_must_fit_the_signature(parameters, message):
    assert findings(parameters=parameters)[0].endswith(message)


def test_a_choice_must_be_one_of_its_words():
    assert findings(operator="dare_ties", parameters={"weight": 1, "rescale": "l1"}) == [
        "parameters.rescale: 'l1' is not one of density, norm, none"
    ]


def test_one_value_per_tensor_cannot_be_given_per_source():
    sources = [{"model": "one", "parameters": {"weight": 1, "scale": 2}}]
    assert findings(sources=sources, parameters={}) == [
        (
            "sources.0.parameters.scale: is one value for all sources; move it to the recipe's "
            "parameters"
        )
    ]


def test_only_the_sources_without_a_value_are_named():
    sources = [{"model": "one", "parameters": {"weight": 1}}, "two"]
    assert findings(sources=sources, parameters={}) == ["parameters.weight: is missing for two"]


def test_one_value_per_tensor_that_is_missing_is_named():
    assert findings(operator="slerp", parameters={}) == ["parameters.t: is missing"]


def test_all_findings_come_at_once_those_of_nested_recipes_included():
    inner = GOOD | {"operator": "linear", "parameters": {"density": 1, "weight": "x"}}
    unknown = GOOD | {"operator": "linaer"}
    sources = [{"name": "i", "recipe": inner}, {"name": "u", "recipe": unknown}]
    found = findings(sources=sources, parameters={"weight": True, "scale": "big"})
    assert [line.split(": ")[0] for line in found] == [
        "parameters.weight",
        "parameters.scale",
        "sources.0.recipe.parameters.density",
        "sources.0.recipe.parameters.weight",
        "sources.1.recipe.operator",
    ]
