"""A plan has one job per tensor, whose key changes whenever its bytes may change."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import MergeError, RecipeError
from evomerge.merging.plan import make_plan, source_identity
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.merging.plan import Signature, TensorJob

UP = "model.layers.{}.mlp.up_proj.weight"
QUERY = "model.layers.{}.self_attn.q_proj.weight"
LAYERS = [pattern.format(layer) for pattern in (UP, QUERY) for layer in range(4)]
OUTSIDE = ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"]
TENSORS: dict[str, Signature] = dict.fromkeys((*OUTSIDE, *LAYERS), (torch.bfloat16, (2, 3)))


def _jobs(recipe: MergeRecipe) -> dict[str, TensorJob]:
    return {job.name: job for job in make_plan(recipe, TENSORS).jobs}


def test_every_tensor_of_the_base_has_a_job_and_they_are_sorted(
    recipe: Callable[..., MergeRecipe],
) -> None:
    assert [job.name for job in make_plan(recipe("one"), TENSORS).jobs] == sorted(TENSORS)


def test_a_job_has_the_shape_and_stored_dtype_of_the_base(
    recipe: Callable[..., MergeRecipe],
) -> None:
    job = _jobs(recipe("one"))["model.norm.weight"]
    assert (job.shape, job.dtype) == ((2, 3), torch.bfloat16)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_recipe_may_choose_what_is_stored(
    dtype: str, recipe: Callable[..., MergeRecipe]
) -> None:
    jobs = _jobs(recipe("one", dtype=dtype))
    assert {job.dtype for job in jobs.values()} == {getattr(torch, dtype)}


def test_integers_stay_integers_whatever_is_stored(recipe: Callable[..., MergeRecipe]) -> None:
    plan = make_plan(recipe("one", dtype="float16"), {"rotary.position_ids": (torch.int64, (4,))})
    assert plan.jobs[0].dtype == torch.int64


def test_parameters_that_are_not_given_take_the_operator_s_defaults(
    recipe: Callable[..., MergeRecipe],
) -> None:
    jobs = _jobs(recipe("one", "two", operator="ties", parameters={"weight": 0.5}))
    assert jobs["model.norm.weight"].arguments == {
        "weight": (0.5, 0.5),
        "density": (1.0, 1.0),
        "scale": 1.0,
        "normalize": True,
    }


def test_a_source_s_own_parameters_come_before_the_recipe_s(
    recipe: Callable[..., MergeRecipe],
) -> None:
    two = {"model": "two", "parameters": {"weight": 0.9}}
    jobs = _jobs(recipe("one", two, operator="task_arithmetic", parameters={"weight": 0.2}))
    assert jobs["model.norm.weight"].arguments["weight"] == (0.2, 0.9)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        pytest.param(UP.format(0), 0.1, id="layer"),
        pytest.param(UP.format(2), 0.2, id="component of a layer"),
        pytest.param(QUERY.format(2), 0.9, id="another component of the layer"),
        pytest.param(QUERY.format(3), 0.3, id="part of the name"),
        pytest.param("model.embed_tokens.weight", 0.4, id="component outside the layers"),
        pytest.param("lm_head.weight", 0.9, id="the rest"),
    ],
)
def test_the_first_rule_that_applies_gives_the_value(
    name: str, weight: float, recipe: Callable[..., MergeRecipe]
) -> None:
    rules = [
        {"value": 0.1, "layers": [0, 2]},
        {"value": 0.2, "layers": [2, 4], "component": "mlp"},
        {"value": 0.3, "tensor": "layers.3.self_attn"},
        {"value": 0.4, "component": "embedding"},
        {"value": 0.9},
    ]
    jobs = _jobs(recipe("one", operator="task_arithmetic", parameters={"weight": rules}))
    assert jobs[name].arguments["weight"] == (weight,)


def test_a_tensor_that_no_rule_covers_is_named_with_parameter_and_source(
    recipe: Callable[..., MergeRecipe],
) -> None:
    parameters = {"weight": [{"value": 0.1, "layers": [0, 4]}]}
    with pytest.raises(
        MergeError,
        match=r"parameters\.weight of source one: no rule gives a value for tensor lm_head\.weight"
        "; end the list with a rule that has only a value",
    ):
        make_plan(recipe("one", operator="task_arithmetic", parameters=parameters), TENSORS)


def test_a_missing_value_for_all_sources_is_named_without_a_source(
    recipe: Callable[..., MergeRecipe],
) -> None:
    with pytest.raises(MergeError, match=r"parameters\.t: no rule gives a value for tensor lm_"):
        make_plan(
            recipe(
                "one", "two", operator="slerp", parameters={"t": [{"value": 0, "layers": [0, 4]}]}
            ),
            TENSORS,
        )


def test_a_recipe_that_does_not_fit_its_operator_has_no_plan(
    recipe: Callable[..., MergeRecipe],
) -> None:
    with pytest.raises(RecipeError, match="slerp takes 2 sources, found 1"):
        make_plan(recipe("one", operator="slerp", parameters={"t": 0.5}), TENSORS)


NESTED: dict[str, Any] = {"base": "base", "sources": ["three"], "operator": "linear"}

# Recipes of which any two may give other bytes.
DIFFERENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"parameters": {"weight": 0.6}},
    "weight of a source": {"sources": [{"model": "one", "parameters": {"weight": 0.6}}, "two"]},
    "order": {"sources": ["two", "one"]},
    "source": {"sources": ["one", "three"]},
    "adapter": {"sources": ["one", "base+lora"]},
    "nested": {"sources": ["one", {"recipe": NESTED, "name": "two"}]},
    "nested seed": {"sources": ["one", {"recipe": NESTED | {"seed": 1}, "name": "two"}]},
    "measured as another": {"sources": ["one", {"model": "two", "measured_as": "one"}]},
    "base": {"base": "other"},
    "dtype": {"dtype": "float32"},
    "operator": {"operator": "ties"},
    "flag": {"parameters": {"weight": 0.5, "normalize": True}},
    "stochastic": {"operator": "dare_linear"},
    "stochastic, seed": {"operator": "dare_linear", "seed": 1},
    "stochastic, label": {
        "operator": "dare_linear",
        "sources": [{"model": "one", "name": "uno"}, "two"],
    },
    "choice": {
        "operator": "dare_linear",
        "parameters": {"weight": 0.5, "rescale": "norm"},
    },
}


def _key(changes: dict[str, Any]) -> tuple[object, ...]:
    document = {
        "base": "base",
        "sources": ["one", "two"],
        "operator": "task_arithmetic",
        "parameters": {"weight": 0.5},
    } | changes
    return _jobs(MergeRecipe.model_validate(document))["model.norm.weight"].key


@pytest.mark.parametrize(("first", "second"), itertools.combinations(DIFFERENT, 2))
def test_recipes_that_may_give_other_bytes_have_other_keys(first: str, second: str) -> None:
    assert _key(DIFFERENT[first]) != _key(DIFFERENT[second])


# Pairs of recipes that give the same bytes, written differently.
EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a default written out": ({}, {"parameters": {"weight": 0.5, "scale": 1.0}}),
    "rules that agree": ({}, {"parameters": {"weight": [{"value": 0.5}]}}),
    "rules about other tensors": (
        {},
        {"parameters": {"weight": [{"value": 9, "layers": [0, 4]}, {"value": 0.5}]}},
    ),
    "the seed of an operator that draws nothing": ({}, {"seed": 5}),
    "the name of a source of an operator that draws nothing": (
        {},
        {"sources": [{"model": "one", "name": "uno"}, "two"]},
    ),
    "a dtype that the base has anyway": ({}, {"dtype": "bfloat16"}),
    "a candidate in full and by digest": (
        {"sources": ["one", {"recipe": NESTED, "name": "two"}]},
        {
            "sources": [
                "one",
                {"candidate": digest(MergeRecipe.model_validate(NESTED)), "name": "two"},
            ]
        },
    ),
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL)
def test_recipes_that_give_the_same_bytes_have_the_same_key(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    first, second = pair
    assert _key(first) == _key(second)


def test_changing_one_layer_changes_the_keys_of_that_layer_only(
    recipe: Callable[..., MergeRecipe],
) -> None:
    def with_first_layer(weight: float) -> dict[str, TensorJob]:
        rules = [{"value": weight, "layers": [0, 1]}, {"value": 0.5}]
        return _jobs(recipe("one", operator="task_arithmetic", parameters={"weight": rules}))

    before, after = with_first_layer(0.1), with_first_layer(0.2)
    changed = {name for name in TENSORS if before[name].key != after[name].key}
    assert changed == {UP.format(0), QUERY.format(0)}


def test_a_key_can_be_hashed(recipe: Callable[..., MergeRecipe]) -> None:
    job = _jobs(recipe("one"))["model.norm.weight"]
    assert hash(job.key) == hash(_jobs(recipe("one"))["model.norm.weight"].key)


@pytest.mark.parametrize(
    ("source", "identity"),
    [
        (Source(model="a/b+c"), "a/b+c"),
        (Source(candidate="abc", name="x"), "abc"),
        (
            Source(recipe=MergeRecipe.model_validate(NESTED)),
            digest(MergeRecipe.model_validate(NESTED)),
        ),
    ],
    ids=["model", "candidate", "recipe"],
)
def test_a_source_is_known_by_its_model_or_digest(source: Source, identity: str) -> None:
    assert source_identity(source) == identity
