"""A mergekit recipe that is read gives every tensor the same parameters."""

from __future__ import annotations

import pytest
from recipe.mergekit_reading import (
    EMBEDDING,
    HEAD,
    MODULES,
    NORM,
    SLERP,
    TENSORS,
    TIES,
    read,
    t_by_layer,
    value,
    weights,
)

from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import is_mergekit

# Documents


@pytest.mark.parametrize(
    ("text", "expected"),
    [("merge_method: ties", True), ("operator: ties", False), ("- merge_method", False)],
)
def test_a_mergekit_recipe_is_known_by_its_method(text, expected):
    assert is_mergekit(yaml.parse(text, "m.yaml")) is expected


def test_a_uniform_recipe_stays_uniform():
    recipe = read(
        "merge_method: ties\nbase_model: base\n"
        "models:\n  - model: base\n"
        "  - model: one\n    parameters: {weight: 0.3, density: 0.5}\n"
        "  - model: two@main+lora\n    parameters: {weight: 1}\n"
        "parameters: {normalize: false, lambda: 0.5, int8_mask: true, rescale: false}\n"
        "dtype: float32\nout_dtype: bfloat16\n"
    )
    assert recipe == MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": [
                {"model": "one", "parameters": {"weight": 0.3, "density": 0.5}},
                {"model": "two@main+lora", "parameters": {"weight": 1}},
            ],
            "operator": "ties",
            "parameters": {"normalize": False, "scale": 0.5},
            "dtype": "bfloat16",
        }
    )
    assert check_operator(recipe).name == "ties"


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ("", "base"),
        ("dtype: float16\n", "float16"),
        ("dtype: float32\nout_dtype: bfloat16\n", "bfloat16"),
        ("dtype: null\n", "base"),
    ],
)
def test_what_is_stored_is_out_dtype_or_dtype_or_that_of_the_base(dtypes, stored):
    assert read(SLERP + "parameters: {t: 0.5}\n" + dtypes).dtype == stored


def test_a_wrong_dtype_is_named_with_its_line():
    with pytest.raises(RecipeError, match=r"^m\.yaml:5: dtype: expected 'base', .*found 'int8'"):
        read(SLERP + "parameters: {t: 0.5}\ndtype: int8\n")


def test_slerp_starts_at_the_base_wherever_it_is_listed():
    text = SLERP.replace("{model: base}, {model: one}", "{model: one}, {model: base}")
    recipe = read(text + "parameters: {t: 0.5}\n")
    assert [source.model for source in recipe.sources] == ["base", "one"]


def test_slerp_adds_a_base_that_is_not_listed():
    recipe = read(SLERP.replace("{model: base}, ", "") + "parameters: {t: 0.5}\n")
    assert [source.model for source in recipe.sources] == ["base", "one"]


def test_the_base_among_the_models_is_no_source_of_task_vectors():
    recipe = read(TIES + "models: [{model: one}, {model: base}]\nparameters: {weight: 1}\n")
    assert [source.model for source in recipe.sources] == ["one"]


def test_linear_without_a_base_takes_the_first_model_as_donor():
    recipe = read(
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    )
    assert recipe.base == "a"
    assert [source.model for source in recipe.sources] == ["a", "b"]


def test_linear_adds_its_base_to_the_models():
    text = "merge_method: linear\nbase_model: z\nmodels: [{model: a}]\nparameters: {weight: 1}"
    recipe = read(text)
    assert [source.model for source in recipe.sources] == ["a", "z"]
    assert value(recipe, "weight", HEAD, 1) == 1


def test_linear_does_not_add_its_base_to_slices():
    recipe = read(
        "merge_method: linear\nbase_model: z\n"
        "slices: [{sources: [{model: a, layer_range: [0, 4]}]}]\nparameters: {weight: 1}"
    )
    assert [source.model for source in recipe.sources] == ["a"]


def test_models_that_end_alike_get_names():
    recipe = read(TIES + "models: [{model: a/m}, {model: b/m}]\nparameters: {weight: 1}\n")
    assert [source.label for source in recipe.sources] == ["0:a/m", "1:b/m"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("org/a@main+org/b", "org/a@main+org/b"),
        ("{model: a, lora: b}", "a+b"),
        ("{model: {path: a b, revision: main}}", "a b@main"),
        ("{model: {path: a}, lora: {path: b, revision: v2}}", "a+b@v2"),
    ],
)
def test_a_model_may_be_written_in_parts(model, expected):
    recipe = read(TIES + f"models: [{{model: {model}}}]\nparameters: {{weight: 1}}\n")
    assert recipe.sources[0].model == expected


@pytest.mark.parametrize(("rescale", "word"), [("", "norm"), ("true", "norm"), ("false", "none")])
def test_dare_restores_the_norm_unless_told_otherwise(rescale, word):
    parameters = "{weight: 1" + (f", rescale: {rescale}" if rescale else "") + "}"
    text = TIES.replace("ties", "dare_ties")
    recipe = read(text + f"models: [{{model: a}}]\nparameters: {parameters}\n")
    assert recipe.parameters["rescale"] == word


def test_dare_may_rescale_some_tensors():
    text = TIES.replace("ties", "dare_linear") + "models: [{model: a}]\n"
    recipe = read(text + "parameters: {weight: 1, rescale: [{filter: mlp, value: false}]}\n")
    found = {value(recipe, "rescale", name) for name in TENSORS if "mlp" in name}
    assert found == {"none"}
    assert value(recipe, "rescale", HEAD) == "norm"


# Gradients and filters


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        ("[0, 1]", [0, 1 / 3, 2 / 3, 1]),
        ("[0.5]", [0.5] * 4),
        ("[0, 1, 0]", [0, 2 / 3, 2 / 3, 0]),
        ("[1, 0, 0, 1]", [1, 0, 0, 1]),
        ("[{value: [0, 1]}]", [0, 1 / 3, 2 / 3, 1]),
        ("{value: 0.25}", [0.25] * 4),
        ("1e-05", [1e-05] * 4),
    ],
)
def test_a_gradient_is_spread_over_the_layers(gradient, expected):
    assert t_by_layer(gradient) == pytest.approx(expected)


def test_outside_the_layers_a_gradient_has_its_first_value():
    recipe = read(SLERP + "parameters: {t: [0.1, 0.9]}\n")
    assert [value(recipe, "t", name) for name in (EMBEDDING, NORM, HEAD)] == [0.1] * 3


def test_the_only_layer_of_a_slice_has_the_last_value_of_a_gradient():
    found = weights(
        TIES + "slices:\n"
        "  - sources: [{model: a, layer_range: [0, 1]}, {model: base, layer_range: [0, 1]}]\n"
        "  - sources: [{model: a, layer_range: [1, 4]}, {model: base, layer_range: [1, 4]}]\n"
        "parameters: {weight: [0, 1]}\n"
    )
    assert [found[f"{i}.mlp.up_proj"] for i in range(4)] == [1, 0, 0.5, 1]
    assert [found[name] for name in ("embed_tokens", "norm", "lm_head")] == [0, 0, 0]


def test_a_list_of_flags_has_no_values_in_between():
    text = TIES + "models: [{model: a}]\nparameters: {weight: 1, normalize: [true, false]}\n"
    recipe = read(text)
    found = [value(recipe, "normalize", f"model.layers.{i}.mlp.up.weight") for i in range(4)]
    assert found == [True, True, True, False]


def test_the_first_filter_that_is_part_of_the_name_counts():
    found = weights(
        TIES + "models: [{model: a}]\nparameters:\n  weight:\n"
        "    - {filter: proj, value: 1}\n    - {filter: mlp, value: 2}\n"
        "    - {filter: layernorm, value: 3}\n    - {filter: '*', value: 4}\n"
        "    - {filter: lm_head, value: 5}\n"
    )
    assert found == {
        "embed_tokens": 4,
        **{f"{i}.mlp.up_proj": 1 for i in range(4)},
        **{f"{i}.self_attn.q_proj": 1 for i in range(4)},
        **{f"{i}.input_layernorm": 3 for i in range(4)},
        "norm": 4,
        "lm_head": 4,
    }


def test_a_filter_may_hold_a_gradient():
    found = weights(
        TIES + "models: [{model: a}]\n"
        "parameters: {weight: [{filter: mlp, value: [0, 3]}, {value: 9}]}\n"
    )
    assert [found[f"{i}.mlp.up_proj"] for i in range(4)] == [0, 1, 2, 3]
    assert found["0.self_attn.q_proj"] == found["lm_head"] == 9


# Scopes


def test_a_model_comes_before_its_slice_and_the_slice_before_the_recipe():
    found = weights(
        TIES + "slices:\n"
        "  - sources:\n"
        "      - model: a\n        layer_range: [0, 2]\n"
        "        parameters: {weight: [{filter: mlp, value: 1}]}\n"
        "    parameters: {weight: [{filter: q_proj, value: 2}]}\n"
        "  - sources: [{model: a, layer_range: [2, 4]}]\n"
        "parameters: {weight: 3}\n"
    )
    assert [found[f"0.{module}"] for module in MODULES] == [3, 1, 2]
    assert [found[f"2.{module}"] for module in MODULES] == [3, 3, 3]


def test_embeddings_follow_the_first_slice_and_norm_and_head_the_last():
    found = weights(
        TIES + "slices:\n"
        "  - sources: [{model: a, layer_range: [0, 2], parameters: {weight: 1}}]\n"
        "  - sources: [{model: a, layer_range: [2, 4], parameters: {weight: 2}}]\n"
    )
    assert found["embed_tokens"] == found["1.input_layernorm"] == 1
    assert found["norm"] == found["lm_head"] == found["2.input_layernorm"] == 2


def test_a_filter_of_the_last_slice_does_not_reach_into_the_first():
    # The rules for the final norm must not catch the norms of the first slice's layers.
    recipe = read(
        TIES + "slices:\n"
        "  - sources: [{model: a, layer_range: [0, 2], "
        "parameters: {density: [{filter: mlp, value: 0.1}]}}]\n"
        "  - sources: [{model: a, layer_range: [2, 4], "
        "parameters: {density: [{filter: norm, value: 0.2}]}}]\n"
        "parameters: {weight: 1}\n"
    )
    found = [value(recipe, "density", name, 0) for name in (TENSORS[1], TENSORS[-3], NORM)]
    assert found == [1, 1, 0.2]
    assert value(recipe, "density", "model.layers.3.input_layernorm.weight", 0) == 0.2


def test_an_empty_list_asks_the_next_scope():
    text = "models: [{model: a, parameters: {weight: []}}]\nparameters: {weight: 3}\n"
    assert set(weights(TIES + text).values()) == {3}


def test_empty_parameters_say_nothing():
    text = "models: [{model: a, parameters: }]\nparameters: {weight: 3}\n"
    assert set(weights(TIES + text).values()) == {3}
