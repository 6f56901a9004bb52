"""A mergekit recipe that is read gives every tensor the same parameters, or is refused."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe.mergekit_rules import parameters_of, value_in_mergekit

from evomerge.errors import RecipeError
from evomerge.layout import locate
from evomerge.operators.registry import find_operator
from evomerge.recipe import yaml
from evomerge.recipe.check import check_operator
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import from_mergekit, is_mergekit
from evomerge.recipe.mergekit.write import to_mergekit

LAYERS = 4
MODULES = ["input_layernorm", "mlp.up_proj", "self_attn.q_proj"]
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(LAYERS) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
]
EMBEDDING, NORM, HEAD = TENSORS[0], TENSORS[-2], TENSORS[-1]
RESCALE = {"norm": True, "none": False}
SLERP = "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: one}]\n"
TIES = "merge_method: ties\nbase_model: base\n"


def read(text: str) -> MergeRecipe:
    return from_mergekit(yaml.parse_all(text, "m.yaml"), lambda _: LAYERS).recipe


def value(recipe: MergeRecipe, parameter: str, name: str, source: int | None = None) -> Any:
    of = None if source is None else recipe.sources[source]
    found = recipe.setting(parameter, name, locate(name), of)
    default = find_operator(recipe.operator).parameters[parameter].default
    return default if found is None else found


def t_by_layer(text: str) -> list[Any]:
    recipe = read(SLERP + f"parameters:\n  t: {text}\n")
    return [value(recipe, "t", f"model.layers.{i}.mlp.up_proj.weight") for i in range(LAYERS)]


def weights(text: str) -> dict[str, Any]:
    """The weight of the first source for each tensor, by a short name."""
    recipe = read(text)
    return {
        name.removeprefix("model.").removeprefix("layers.").removesuffix(".weight"): value(
            recipe, "weight", name, 0
        )
        for name in TENSORS
    }


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


def test_a_model_listed_twice_has_the_parameters_of_the_first_entry():
    recipe = read(
        TIES + "models:\n  - {model: a, parameters: {weight: 0.1}}\n"
        "  - {model: a, parameters: {weight: 0.9}}\n"
    )
    assert [value(recipe, "weight", HEAD, source) for source in (0, 1)] == [0.1, 0.1]


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


# Refusals

MODELS = "models: [{model: a}]\n"
WEIGHT = "parameters: {weight: 1}\n"
PART = "{sources: [{model: a, layer_range: [0, 4]}]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: dela\n", "m.yaml:1: merge_method 'dela' is not read; known: linear, "),
        ("base_model: a\n", "m.yaml:1: merge_method None is not read; known: linear"),
        (TIES + "modles: []\n", "m.yaml:3: modles: unknown key, which mergekit would ignore; did"),
        (TIES + "foo: []\n", "m.yaml:3: foo: unknown key, which mergekit would ignore; known: ba"),
        (
            TIES + "models: [{model: a}]\nparameters: {weight: 1}\ntokenizer: {sorce: a}\n",
            "m.yaml:5: sorce: unknown key, which mergekit would ignore; did you mean 'source'?",
        ),
        (
            TIES + "models: [{model: a}]\nparameters: {weight: 1}\n"
            "tokenizer_source: base\ntokenizer: {source: base}\n",
            "m.yaml:6: give either tokenizer or tokenizer_source",
        ),
        (
            TIES + "models: [{model: a}]\nparameters: {weight: 1}\nchat_template: lama\n",
            "m.yaml:5: chat_template: expected auto, alpaca, chatml",
        ),
        (TIES + "modules: {}\n", "m.yaml:3: modules: only 'default' is read, that of models with one s"),
        (
            TIES + "models: [{model: a}]\nmodules: {default: {models: [{model: a}]}}\n",
            "give exactly one of models, slices, modules",
        ),
        (TIES, "m.yaml:1: give exactly one of models, slices"),
        (TIES + MODELS + f"slices: [{PART}]\n", "m.yaml:1: give exactly one of models, slices"),
        ("merge_method: ties\n" + MODELS + WEIGHT, "m.yaml:1: base_model: is missing"),
        ("merge_method: ties\nbase_model: 5\n" + MODELS + WEIGHT, "m.yaml:2: model: expected a f"),
        (TIES + "models: []\n", "m.yaml:3: models: expected a list of entries, found []"),
        (TIES + "models: a\n", "m.yaml:3: models: expected a list of entries, found 'a'"),
        (TIES + "models: [a]\n", "m.yaml:3: expected keys and values, found 'a'"),
        (TIES + "models: [{}]\n", "m.yaml:3: model: expected a folder or a Hub id, found None"),
        (TIES + "models: [{model: 5}]\n", "m.yaml:3: model: expected a folder or a Hub id, found"),
        (TIES + "models: [{model: {modle: a}}]\n", "m.yaml:3: model: expected a folder or a Hub"),
        (TIES + "models: [{model: a, wieght: 1}]\n", "m.yaml:3: wieght: unknown key"),
        (
            TIES + MODELS + "parameters: {densty: 1}\n",
            "m.yaml:4: densty: unknown key, which mergekit would ignore; did you mean 'density'?",
        ),
        (TIES + MODELS + "parameters: {scale: 1}\n", "m.yaml:4: scale: unknown key"),
        (TIES + MODELS + "parameters: 5\n", "m.yaml:4: expected keys and values, found 5"),
        (TIES + MODELS, "m.yaml: weight: is missing for a"),
        (SLERP, "m.yaml: t: is missing"),
        (SLERP + "parameters: {tt: 1}\n", "m.yaml:4: tt: unknown key"),
        (
            TIES + "models: [{model: a, parameters: {lambda: 1}}]\n" + WEIGHT,
            "m.yaml:3: lambda: is one value for all models, so mergekit would ignore it here",
        ),
        (
            TIES + MODELS + "parameters: {weight: 1, rescale: true}\n",
            "m.yaml: rescale: ties is read with its default only, False; found True",
        ),
        (TIES + MODELS + "parameters: {weight: x}\n", "m.yaml:4: weight: expected a number or a list of them, found 'x'"),
        (TIES + MODELS + "parameters: {weight: null}\n", "m.yaml:4: weight: expected a number"),
        (TIES + MODELS + "parameters: {weight: [0, x]}\n", "list of them, found 'x'"),
        (TIES + MODELS + "parameters: {weight: .nan}\n", "finite number, found nan; mergekit would w"),
        (TIES + MODELS + "parameters: {weight: [[0]]}\n", "list of them, found [0]"),
        (TIES + MODELS + "parameters: {weight: [{filter: a}]}\n", "of them, found None"),
        (TIES + MODELS + "parameters: {weight: [{value: []}]}\n", "of them, found []"),
        (TIES + MODELS + "parameters: {weight: [{value: 1, fliter: a}]}\n", "fliter: unknown key"),
        (
            TIES + MODELS + "parameters: {weight: [{value: 1, filter: 2}]}\n",
            "expected text, found",
        ),
        (TIES + MODELS + "parameters: {weight: [{value: 1}, 2]}\n", "expected keys and values"),
        (
            TIES.replace("ties", "dare_ties") + MODELS + "parameters: {weight: 1, rescale: 2}\n",
            "m.yaml:4: rescale: expected true or false, found 2",
        ),
        (TIES + "slices: []\n", "m.yaml:3: slices: expected a list of entries, found []"),
        (TIES + "slices: [{}]\n", "m.yaml:3: sources: expected a list of entries, found None"),
        (TIES + "slices: [{sources: [{model: a}]}]\n", "layer_range: expected two rising layers"),
        (
            TIES + "slices: [{sources: [{model: a, layer_range: [2, 1]}]}]\n",
            "m.yaml:3: layer_range: expected two rising layers, found [2, 1]",
        ),
        (
            TIES + "slices: [{sources: [{model: a, layer_range: [0, 2]}], base_model: b}]\n",
            "m.yaml:3: base_model: task vectors are measured from one base; merge this slice in a ",
        ),
        (
            TIES + "slices: [{sources: [{model: a, layer_range: [0, 2]}], residual_weight: 1}]\n",
            "m.yaml:3: residual_weight: unknown key, which mergekit would ignore",
        ),
        (
            "merge_method: linear\n" + MODELS + "parameters: {weight: [{filter: a, value: 1}]}\n",
            "m.yaml: weight: may be missing for some tensors for a; end every list of filters w",
        ),
        (
            "merge_method: linear\nbase_model: z\nmodels: [{model: a, parameters: {weight: 1}}]\n",
            "m.yaml: weight: is missing for z",
        ),
        (
            TIES + "slices:\n  - sources: [{model: a, layer_range: [0, 2], "
            "parameters: {weight: 1}}]\n  - sources: [{model: a, layer_range: [2, 4]}]\n",
            "m.yaml: weight: may be missing for some tensors for a",
        ),
        (TIES + "models: [{model: base}]\n" + WEIGHT, "sources: give at least one source"),
    ],
)
def test_what_is_not_read_is_refused_by_name(text, message):
    with pytest.raises(RecipeError, match=r"^m\.yaml") as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "task_arithmetic", "dare_ties"])
def test_parameters_without_effect_on_the_result_are_accepted_where_mergekit_has_them(method):
    family = method not in ("linear", "slerp")
    text = f"merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}]\n"
    needed = "t: 0.5" if method == "slerp" else "weight: 1"
    text += f"parameters: {{{needed}, int8_mask: true}}\n"
    if family:
        assert "int8_mask" not in read(text).parameters
    else:
        with pytest.raises(RecipeError, match=r"int8_mask: unknown key"):
            read(text)


def test_task_arithmetic_ignores_density_and_rescale_as_mergekit_does():
    text = TIES.replace("ties", "task_arithmetic") + MODELS
    recipe = read(text + "parameters: {weight: 1, density: 0.5, rescale: true}\n")
    assert check_operator(recipe).name == "task_arithmetic"
    assert recipe.sources[0].parameters.keys() == {"weight"}


# mergekit's own rules

NUMBERS = st.sampled_from([0, 0.25, 0.5, 1])
TEXTS = ["mlp", "q_proj", "norm", "layers.1.", "embed", "weight", "nothing", "*"]


def values_and_lists(values: st.SearchStrategy[Any], *, closed: bool) -> st.SearchStrategy[Any]:
    scalar = values | st.lists(values, min_size=1, max_size=4)
    entry = st.fixed_dictionaries({"value": scalar}, optional={"filter": st.sampled_from(TEXTS)})
    last = st.fixed_dictionaries({"value": scalar})
    if closed:
        return scalar | st.tuples(st.lists(entry, max_size=3), last).map(lambda p: [*p[0], p[1]])
    return scalar | st.lists(entry, max_size=3) | entry


@st.composite
def scopes(draw: st.DrawFn, names: set[str], *, closed: bool = False) -> dict[str, Any]:
    found = {}
    for name in sorted(names):
        if (closed and name in ("weight", "t")) or draw(st.booleans()):
            values = st.booleans() if name in ("normalize", "rescale") else NUMBERS
            found[name] = draw(values_and_lists(values, closed=closed))
    return {"parameters": found} if found else {}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(
        st.sampled_from(["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties"])
    )
    names = parameters_of(method)
    own = names & {"weight", "density"}
    models = draw(
        st.permutations(["base", "one"] if method == "slerp" else ["base", "one", "two"])
    )
    document: dict[str, Any] = {"merge_method": method, "base_model": "base"}
    # Required parameters always have a last word; what happens without is another test's.
    document |= draw(scopes(names, closed=True))
    if draw(st.booleans()):
        document["models"] = [{"model": model} | draw(scopes(own)) for model in models]
        return document
    cuts = [0, *sorted(draw(st.sets(st.integers(1, LAYERS - 1)))), LAYERS]
    document["slices"] = [
        {
            "sources": [
                {"model": model, "layer_range": [start, stop]} | draw(scopes(own))
                for model in models
            ]
        }
        | draw(scopes(names))
        for start, stop in itertools.pairwise(cuts)
    ]
    return document


def assert_same_values(document: dict[str, Any], recipe: MergeRecipe) -> None:
    operator = find_operator(recipe.operator)
    for parameter in operator.parameters.values():
        theirs = "lambda" if parameter.name == "scale" else parameter.name
        indices = range(len(recipe.sources)) if parameter.per_source else [None]
        for index in indices:
            model = None if index is None else recipe.sources[index].model
            for name in TENSORS:
                ours = value(recipe, parameter.name, name, index)
                ours = RESCALE[ours] if parameter.name == "rescale" else ours
                expected = value_in_mergekit(document, theirs, model, name, layers=LAYERS)
                assert ours == expected, (parameter.name, model, name)


@settings(max_examples=40)
@given(documents())
def test_every_tensor_has_the_value_that_mergekit_gives_it(document):
    assert_same_values(document, read(to_yaml(document)))


@settings(max_examples=25)
@given(documents())
def test_reading_what_was_written_gives_the_same_values(document):
    first = read(to_yaml(document))
    written = to_mergekit(first, TENSORS, "float32").document
    second = read(to_yaml(written))
    assert_same_values(written, second)
    assert [s.model for s in second.sources][: len(first.sources)] == [
        source.model for source in first.sources
    ]


@settings(max_examples=40)
@given(documents())
def test_a_required_value_is_never_made_up(document):
    document.pop("parameters")
    with suppress(RecipeError):
        recipe = read(to_yaml(document))
        per_source = [
            p for p in find_operator(recipe.operator).parameters.values() if p.per_source
        ]
        if all(
            value(recipe, parameter.name, name, index) is not None
            for parameter in per_source
            for index in range(len(recipe.sources))
            for name in TENSORS
        ):
            assert_same_values(document, recipe)
