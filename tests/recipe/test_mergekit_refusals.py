"""What mergekit would drop or draw by chance, and what is not read, is refused by name."""

from __future__ import annotations

import pytest
from recipe.mergekit_reading import SLERP, TIES, read

from evomerge.errors import RecipeError
from evomerge.recipe.check import check_operator

MODELS = "models: [{model: a}]\n"
WEIGHT = "parameters: {weight: 1}\n"
PART = "{sources: [{model: a, layer_range: [0, 4]}]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: dela\n", "m.yaml:1: merge_method 'dela' is not read; known: linear, "),
        (
            TIES + f"models: [{{model: a}}]\nparameters: {{weight: 1{'0' * 350}}}\n",
            "m.yaml:4: weight: expected a finite number, found 1000",
        ),
        (
            TIES + "models: [{model: a}, {model: b}, {model: a}]\n" + WEIGHT,
            "m.yaml:3: a: is listed twice; add up its weights in one entry",
        ),
        ("merge_method: [ties]\n", "m.yaml:1: merge_method ['ties'] is not read; known: linear"),
        ("merge_method: {ties: 1}\n", "m.yaml:1: merge_method {'ties': 1} is not read; known: "),
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
        (
            TIES + "modules: {}\n",
            "m.yaml:3: modules: only 'default' is read, that of models with one s",
        ),
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
        (
            TIES + MODELS + "parameters: {weight: x}\n",
            "m.yaml:4: weight: expected a number or a list of them, found 'x'",
        ),
        (TIES + MODELS + "parameters: {weight: null}\n", "m.yaml:4: weight: expected a number"),
        (TIES + MODELS + "parameters: {weight: [0, x]}\n", "list of them, found 'x'"),
        (
            TIES + MODELS + "parameters: {weight: .nan}\n",
            "finite number, found nan; mergekit would w",
        ),
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
            "m.yaml:3: base_model: task vectors are measured from one base; merge this slice in",
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
