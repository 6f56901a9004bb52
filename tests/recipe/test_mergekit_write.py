"""A recipe written for mergekit gives every tensor the same parameters there, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe.mergekit_rules import KEYS, parameters_of, value_in_mergekit

from evomerge.errors import RecipeError
from evomerge.layout import locate
from evomerge.operators.registry import Operator, find_operator
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.mergekit.write import to_mergekit

LAYERS = 4
MODULES = ["input_layernorm", "mlp.up_proj", "self_attn.q_norm", "self_attn.q_proj"]
LLAMA = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(LAYERS) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
]
# "attention" is part of "post_attention_layernorm", so filters by module alone would not do.
GPT_NEOX = [
    "gpt_neox.embed_in.weight",
    *(
        f"gpt_neox.layers.{i}.{module}"
        for i in range(LAYERS)
        for module in (
            "attention.dense.bias",
            "attention.dense.weight",
            "mlp.dense_h_to_4h.weight",
            "post_attention_layernorm.weight",
        )
    ),
    "gpt_neox.final_layer_norm.weight",
    "embed_out.weight",
]
GPT2 = [
    "wte.weight",
    *(f"h.{i}.{m}.weight" for i in range(LAYERS) for m in ("attn.c_attn", "ln_1", "mlp.c_fc")),
    "ln_f.weight",
]
RESCALE = {"density": True, "norm": True, "none": False}


def make(operator: str, *sources: Any, **parameters: Any) -> MergeRecipe:
    return MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": list(sources or ("one", "two")),
            "operator": operator,
            "parameters": parameters,
        }
    )


def write(recipe: MergeRecipe, tensors: list[str] = LLAMA) -> dict[str, Any]:
    return to_mergekit(recipe, tensors, "bfloat16").document


def notes(recipe: MergeRecipe) -> tuple[str, ...]:
    return to_mergekit(recipe, LLAMA, "bfloat16").notes


def scopes(recipe: MergeRecipe, operator: Operator) -> list[tuple[str, Source | None]]:
    return [
        (parameter.name, source)
        for parameter in operator.parameters.values()
        for source in (recipe.sources if parameter.per_source else (None,))
    ]


def assert_mergekit_agrees(
    recipe: MergeRecipe, document: dict[str, Any], tensors: list[str] = LLAMA
) -> None:
    """Every parameter of every source has one value for each tensor, here and in mergekit."""
    operator = find_operator(recipe.operator)
    assert parameters_of(recipe.operator) <= {
        *("lambda" if name == "scale" else name for name in operator.parameters)
    }
    for parameter, source in scopes(recipe, operator):
        theirs = "lambda" if parameter == "scale" else parameter
        model = source.model if source else None
        for name in tensors:
            ours = recipe.setting(parameter, name, locate(name), source)
            ours = operator.parameters[parameter].default if ours is None else ours
            ours = RESCALE[ours] if parameter == "rescale" else ours
            for inferred in (False, True):
                value = value_in_mergekit(
                    document, theirs, model, name, layers=LAYERS, inferred=inferred
                )
                assert (type(value), value) == (type(ours), ours), (parameter, model, name)


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
        (make("ties", weight=1, density=0.1), 0),
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


# mergekit's own rules

NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1e-05])
FAMILIES = st.sampled_from([LLAMA, GPT_NEOX, GPT2])
TEXTS = ["q_proj", "attention", "norm", "layers.1.", "weight", "embed", "h", "mlp", "nothing"]


def values_and_rules(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value, or rules that end in one."""
    rule = st.fixed_dictionaries(
        {"value": values},
        optional={
            "layers": st.sampled_from([[0, 1], [1, 3], [0, 4], [3, 4], [2, 99]]),
            "component": st.sampled_from(["attention", "mlp", "norm", "embedding", "head"]),
            "tensor": st.sampled_from(TEXTS),
        },
    )
    last = st.fixed_dictionaries({"value": values})
    rules = st.tuples(st.lists(rule, max_size=4), last).map(lambda parts: [*parts[0], parts[1]])
    return values | rules


@st.composite
def recipes(draw: st.DrawFn) -> MergeRecipe:
    operator = find_operator(
        draw(st.sampled_from(["linear", "slerp", "task_arithmetic", "ties", "dare_linear"]))
    )
    names = ["base", "one"] if operator.name == "slerp" else ["one", "two+lora", "three"]
    sources: list[dict[str, Any]] = [{"model": name, "parameters": {}} for name in names]
    shared: dict[str, Any] = {}
    for parameter in operator.parameters.values():
        values = NUMBERS if parameter.interval else st.booleans()
        values = st.sampled_from(parameter.choices) if parameter.choices else values
        if parameter.default is None or draw(st.booleans()):
            shared[parameter.name] = draw(values_and_rules(values))
        for source in sources if parameter.per_source else []:
            if draw(st.booleans()):
                source["parameters"][parameter.name] = draw(values_and_rules(values))
    return make(operator.name, *sources, **shared)


@settings(max_examples=60)
@given(recipes(), FAMILIES)
def test_every_tensor_has_our_value_by_the_rules_of_mergekit(recipe, tensors):
    document = write(recipe, tensors)
    assert_mergekit_agrees(recipe, document, tensors)


@settings(max_examples=25)
@given(recipes(), FAMILIES)
def test_the_yaml_means_the_same_to_mergekit_and_has_no_key_it_drops(recipe, tensors):
    document = write(recipe, tensors)
    read = pyyaml.safe_load(to_yaml(document))
    assert read == document
    assert read.keys() <= KEYS["document"]
    parts = read.get("slices", [])
    assert all(part.keys() <= KEYS["slice"] for part in parts)
    sources = [source for part in parts for source in part["sources"]] + read.get("models", [])
    assert all(source.keys() <= KEYS["source"] for source in sources)
    for scope in (read, *parts, *sources):
        assert scope.get("parameters", {}).keys() <= parameters_of(recipe.operator)
