"""A recipe written for mergekit gives every tensor the same parameters there, or is refused."""

from __future__ import annotations

import pytest
from recipe.mergekit_writing import (
    GPT_NEOX,
    LAYERS,
    LLAMA,
    assert_mergekit_agrees,
    make,
    notes,
    write,
)

from evomerge.errors import RecipeError
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.write import to_mergekit

# Documents


@pytest.mark.parametrize(
    ("recipe", "document"),
    [
        (
            make("linear", weight=0.5),
            {
                "merge_method": "linear",
                "base_model": "base",
                "models": [
                    {"model": "one", "parameters": {"weight": 0.5}},
                    {"model": "two", "parameters": {"weight": 0.5}},
                    {"model": "base", "parameters": {"weight": 0.0}},
                ],
                "parameters": {"normalize": True},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
        (
            make("task_arithmetic", {"model": "one", "parameters": {"weight": 2}}, scale=0.5),
            {
                "merge_method": "task_arithmetic",
                "base_model": "base",
                "models": [{"model": "one", "parameters": {"weight": 2.0}}, {"model": "base"}],
                "parameters": {"lambda": 0.5, "normalize": False},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
        (
            make("ties", "models/base+adapters/sums", weight=1, density=0.2),
            {
                "merge_method": "ties",
                "base_model": "base",
                "models": [
                    {
                        "model": "models/base+adapters/sums",
                        "parameters": {"weight": 1.0, "density": 0.2},
                    },
                    {"model": "base"},
                ],
                "parameters": {"lambda": 1.0, "normalize": True},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
        (
            make("dare_linear", "one", weight=1, density=0.5, rescale="none"),
            {
                "merge_method": "dare_linear",
                "base_model": "base",
                "models": [
                    {"model": "one", "parameters": {"weight": 1.0, "density": 0.5}},
                    {"model": "base"},
                ],
                "parameters": {"lambda": 1.0, "normalize": False, "rescale": False},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
        (
            make("dare_ties", "one", weight=1, normalize=True),
            {
                "merge_method": "dare_ties",
                "base_model": "base",
                "models": [
                    {"model": "one", "parameters": {"weight": 1.0, "density": 1.0}},
                    {"model": "base"},
                ],
                "parameters": {"lambda": 1.0, "normalize": True, "rescale": True},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
        (
            make("slerp", "base", "one", t=0.3),
            {
                "merge_method": "slerp",
                "base_model": "base",
                "models": [{"model": "base"}, {"model": "one"}],
                "parameters": {"t": 0.3},
                "dtype": "float32",
                "out_dtype": "bfloat16",
            },
        ),
    ],
    ids=lambda value: value.operator if isinstance(value, MergeRecipe) else "",
)
def test_a_uniform_recipe_is_one_list_of_models(recipe, document):
    assert write(recipe) == document


def test_a_value_by_component_is_a_list_with_filters_and_a_last_word():
    recipe = make("slerp", "base", "one", t=[{"value": 0.2, "component": "mlp"}, {"value": 0.7}])
    assert write(recipe)["parameters"]["t"] == [
        {"filter": "mlp.up_proj.weight", "value": 0.2},
        {"value": 0.7},
    ]


def test_a_module_that_is_all_alike_takes_one_filter():
    tensors = [*LLAMA, *(f"model.layers.{i}.mlp.down_proj.weight" for i in range(LAYERS))]
    recipe = make("slerp", "base", "one", t=[{"value": 0.2, "component": "mlp"}, {"value": 0.7}])
    assert write(recipe, tensors)["parameters"]["t"] == [
        {"filter": "mlp", "value": 0.2},
        {"value": 0.7},
    ]


def test_layers_with_different_values_become_slices():
    recipe = make("slerp", "base", "one", t=[{"value": 0, "layers": [1, 3]}, {"value": 1}])
    document = write(recipe)
    assert "models" not in document
    assert [part["sources"][0]["layer_range"] for part in document["slices"]] == [
        *([0, 1], [1, 3], [3, 4])
    ]
    assert [part["parameters"]["t"] for part in document["slices"]] == [1, 0, 1]


def test_every_slice_lists_the_base():
    recipe = make("ties", weight=[{"value": 0, "layers": [1, 3]}, {"value": 1}])
    for part in write(recipe)["slices"]:
        assert [source["model"] for source in part["sources"]] == ["one", "two", "base"]


def test_first_and_last_slice_say_the_same_about_tensors_outside_the_layers():
    rules = [{"value": 0.1, "component": "head"}, {"value": 0.2, "layers": [0, 2]}, {"value": 0.3}]
    document = write(make("slerp", "base", "one", t=rules))
    first, last = (part["parameters"]["t"] for part in document["slices"])
    assert first[0] == last[0] == {"filter": "lm_head.weight", "value": 0.1}
    assert_mergekit_agrees(make("slerp", "base", "one", t=rules), document)


def test_a_slice_in_the_middle_is_silent_about_tensors_outside_the_layers():
    rules = [{"value": 0.1, "layers": [0, 1]}, {"value": 0.2, "layers": [1, 3]}, {"value": 0.3}]
    document = write(make("slerp", "base", "one", t=rules))
    assert document["slices"][1]["parameters"] == {"t": 0.2}


def test_rescaling_may_differ_between_tensors():
    rules = [{"value": "none", "component": "mlp"}, {"value": "norm"}]
    recipe = make("dare_ties", weight=1, density=0.5, rescale=rules)
    assert_mergekit_agrees(recipe, write(recipe))


def test_a_module_whose_name_is_part_of_another_is_told_apart():
    recipe = make(
        "slerp", "base", "one", t=[{"value": 0.2, "component": "attention"}, {"value": 1}]
    )
    document = write(recipe, GPT_NEOX)
    assert_mergekit_agrees(recipe, document, GPT_NEOX)
    assert document["parameters"]["t"] == [
        {"filter": "attention.dense.weight", "value": 0.2},
        {"filter": "attention.dense.bias", "value": 0.2},
        {"value": 1.0},
    ]


def test_a_model_without_layers_is_one_list_of_models():
    assert write(make("slerp", "base", "one", t=0.5), ["lm_head.weight"])["parameters"] == {
        "t": 0.5
    }


def test_double_precision_is_kept():
    document = to_mergekit(make("slerp", "base", "one", t=0.5), LLAMA, "float64").document
    assert (document["dtype"], document["out_dtype"]) == ("float64", "float64")


def test_slabs_are_slices_with_the_layers_of_every_model():
    stack = [
        {"layers": {"one": [0, 2], "two": [2, 4], "base": [1, 3]}},
        {"layers": {"two": [0, 1]}},
    ]
    rules = [{"value": 1, "layers": [0, 1]}, {"value": 2}]
    document = write(make("ties", weight=rules, stack=stack))
    assert [
        {source["model"]: source["layer_range"] for source in part["sources"]}
        for part in document["slices"]
    ] == [
        {"one": [0, 1], "two": [2, 3], "base": [1, 2]},
        {"one": [1, 2], "two": [3, 4], "base": [2, 3]},
        {"two": [0, 1], "base": [0, 1]},
    ]
    assert [part["sources"][0]["parameters"]["weight"] for part in document["slices"][1:]] == [
        2,
        2,
    ]


def test_an_arc_may_start_at_another_model_in_every_slab():
    stack = [{"layers": {"one": [0, 2], "two": [0, 2]}}, {"layers": {"two": [2, 4], "x": [0, 2]}}]
    document = write(make("slerp", "one", "two", "x", t=0.5, stack=stack))
    assert document["base_model"] == "base"
    assert [part["base_model"] for part in document["slices"]] == ["one", "two"]


def test_a_passthrough_keeps_the_base_out_of_its_models():
    document = write(make("passthrough", "one", scale=0.5))
    assert document["slices"] == [
        {"sources": [{"model": "one", "parameters": {"scale": 0.5}, "layer_range": [0, 4]}]}
    ]


def test_choices_of_operators_are_flags():
    columns = write(make("nuslerp_lines", "one", "two", weight=1, along="columns"))
    assert columns["merge_method"] == "nuslerp"
    assert columns["parameters"] == {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    rows = write(make("model_stock_rows"))
    assert (rows["merge_method"], rows["parameters"]) == ("model_stock", {"filter_wise": True})


def test_an_arc_around_the_origin_has_no_base():
    assert "base_model" not in write(make("nuslerp", "one", "two", weight=1, around="origin"))


def test_the_vocabulary_is_written_as_it_is():
    rule = {"source": {"kind": "model_token", "model": "one", "token_id": 3}, "force": True}
    tokenizer = {"source": "union", "tokens": {"<a>": rule}, "pad_to_multiple_of": 8}
    document = write(make("linear", "one", tokenizer=tokenizer, chat_template="chatml"))
    assert document["tokenizer"] == tokenizer
    assert document["chat_template"] == "chatml"


def test_a_recipe_for_mergekit_s_bytes_keeps_mergekit_s_dtypes():
    recipe = make("ties", weight=1, density=0.5, mergekit_compat={"dtype": "float16"}, seed=5)
    document = write(recipe)
    assert document["dtype"] == "float16"
    assert "out_dtype" not in document
    assert notes(recipe) == ()
    masks = notes(make("dare_ties", weight=1, rescale="norm", mergekit_compat={}, seed=5))
    assert masks == ("mergekit draws the same random masks with --random-seed 5",)


# Refusals


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            make("linear", {"candidate": "abc"}, "one"),
            r"^mergekit cannot merge a candidate \(abc\); export it first$",
        ),
        (
            make("linear", {"name": "x", "recipe": make("linear")}),
            r"^mergekit cannot merge a candidate \(x\); export it first$",
        ),
        (
            make("ties", "one", {"model": "one", "name": "again"}, weight=1),
            r"^mergekit gives every entry of one the parameters of the first$",
        ),
        (
            make("task_arithmetic", "base", "one", weight=1, normalize=True),
            r"^mergekit does not count the base's weight when it normalizes$",
        ),
        (
            make("ties", weight=[{"value": 1, "component": "mlp"}]),
            r"^parameters\.weight of source one: no rule gives a value for tensor model\.l",
        ),
        (
            make("slerp", "base", "one", t=[{"value": 1, "component": "mlp"}]),
            r"^parameters\.t: no rule gives a value for tensor model\.layers\.0\.in",
        ),
        (make("ties", weight="x"), r"^parameters\.weight: expected a number"),
        (
            make("model_stock", "base", "one"),
            "^mergekit does not count the base among the sources$",
        ),
        (
            make("linear", "one", "two", stack=[{"layers": {"one": [0, 2]}}, {"layers": [0, 2]}]),
            "^mergekit drops models from the tensors after the layers when the last slab has more",
        ),
        (
            make("linear", "one", stack=[{"layers": [0, 2]}, {"layers": [0, 0]}]),
            "^mergekit has no slices without layers; leave the empty slabs out$",
        ),
        (
            make("linear", "one", tokenizer={"source": "intersection"}),
            "^mergekit cannot merge the intersection of vocabularies; choose base or union$",
        ),
        (
            make("linear", "one", base_recipe=make("linear", "two")),
            r"^mergekit cannot measure from a candidate \(base_recipe\); export it first$",
        ),
    ],
)
def test_what_mergekit_cannot_say_is_refused_with_the_reason(recipe, reason):
    with pytest.raises(RecipeError, match=reason):
        write(recipe)


def test_tensors_that_no_text_tells_apart_are_refused():
    # The name of the one outside the layers is part of every name inside.
    tensors = ["norm.weight", "layers.0.norm.weight", "layers.1.norm.weight"]
    recipe = make("slerp", "base", "one", t=[{"value": 1, "layers": [0, 2]}, {"value": 0}])
    with pytest.raises(RecipeError, match=r"cannot tell norm\.weight from others by text in its"):
        write(recipe, tensors)


def test_an_operator_that_mergekit_lacks_is_refused():
    with pytest.raises(RecipeError, match=r"^mergekit has no operator consensus$"):
        write(make("consensus"))


@pytest.mark.parametrize("operator", ["ties", "dare_ties", "task_arithmetic", "dare_linear"])
def test_a_base_among_the_sources_has_no_effect_unless_its_weight_is_counted(operator):
    normalize = operator.endswith("ties")
    recipe = make(operator, "base", "one", weight=1, normalize=normalize)
    assert [entry["model"] for entry in write(recipe)["models"]] == ["base", "one"]


# Notes


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        (make("linear"), 0),
        (make("ties", weight=1), 0),
        (make("ties", weight=1, density=0.1), 1),
        (make("sce", density=0.1), 1),
        (make("nuslerp", "one", "two", weight=1, around="origin"), 1),
        (make("slerp", "base", "one", t=0), 0),
        (make("slerp", "one", "base", t=0), 1),
        (make("dare_ties", weight=1), 0),
        (make("dare_ties", weight=1, density=0.5, rescale="norm"), 1),
        (make("dare_ties", weight=1, density=0.5), 2),
        (make("dare_ties", weight=1, rescale=[{"value": "norm", "component": "mlp"}]), 0),
    ],
)
def test_a_note_is_given_for_each_reason_why_bytes_differ(recipe, count):
    assert len(notes(recipe)) == count


def test_the_notes_say_what_differs():
    assert notes(make("dare_linear", weight=1, density=0.5)) == (
        "mergekit draws other random masks: the same method, but not the same bytes",
        "mergekit restores the L1 norm where this recipe divides by the density",
    )
    assert notes(make("slerp", "one", "two", t=0)) == (
        "mergekit takes config and tokenizer from one",
    )
