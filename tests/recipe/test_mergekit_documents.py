"""Stacks, stages, methods and vocabularies of mergekit recipes, and where chance is left out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.operators.registry import find_operator
from evomerge.recipe import yaml
from evomerge.recipe.check import check_operator
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.lineage import MAX_DEPTH
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.names import METHODS
from evomerge.recipe.mergekit.read import MergekitReading, from_mergekit

LAYERS = 4


def read(text: str, *, compat: bool = False, seed: int = 0) -> MergekitReading:
    documents = yaml.parse_all(text, "m.yaml")
    return from_mergekit(documents, lambda _: LAYERS, compat=compat, seed=seed)


def recipe(text: str, *, compat: bool = False) -> MergeRecipe:
    return read(text, compat=compat).recipe


def part(*sources: tuple[str, int, int], more: str = "") -> str:
    listed = ", ".join(f"{{model: {m}, layer_range: [{a}, {b}]}}" for m, a, b in sources)
    return f"{{sources: [{listed}]{more}}}"


def stacked(method: str, *parts: str, base: str | None = None, parameters: str = "") -> str:
    text = f"merge_method: {method}\n" + (f"base_model: {base}\n" if base else "")
    return f"{text}slices: [{', '.join(parts)}]\nparameters: {{{parameters}}}\n"


def slabs(text: str, *, compat: bool = False) -> list[Any]:
    found = recipe(text, compat=compat).model_dump(mode="json")["stack"]
    return [slab["layers"] for slab in found]


# Stacks


def test_slices_of_other_layers_are_slabs():
    text = stacked("passthrough", part(("a", 0, 3)), part(("b", 1, 4)))
    assert slabs(text) == [{"a": [0, 3]}, {"b": [1, 4]}]


def test_slices_that_end_early_are_a_stack():
    text = stacked("linear", part(("a", 0, 3), ("b", 0, 3)), parameters="weight: 1")
    assert slabs(text) == [[0, 3]]


def test_slices_of_all_layers_in_their_places_are_none():
    text = stacked(
        "linear", *(part(("a", i, i + 2), ("b", i, i + 2)) for i in (0, 2)), parameters="weight: 1"
    )
    assert recipe(text).stack is None


def test_the_base_has_layers_of_its_own():
    text = stacked(
        "ties",
        part(("a", 0, 2), ("b", 1, 3), ("z", 2, 4)),
        part(("z", 0, 2), ("a", 0, 2), ("b", 2, 4)),
        base="z",
        parameters="weight: 1",
    )
    assert slabs(text) == [{"a": [0, 2], "b": [1, 3], "base": [2, 4]}, {"a": [0, 2], "b": [2, 4]}]


def test_models_in_another_order_are_sources_of_their_own():
    text = stacked(
        "linear",
        part(("a", 0, 2), ("b", 0, 2)),
        part(("b", 2, 4), ("a", 2, 4)),
        parameters="weight: 1",
    )
    found = recipe(text)
    assert [source.label for source in found.sources] == ["0:a", "b", "2:a"]
    assert slabs(text) == [{"0:a": [0, 2], "b": [0, 2]}, {"b": [2, 4], "2:a": [2, 4]}]


def test_an_arc_starts_at_the_base_of_its_slice():
    text = stacked(
        "slerp",
        part(("a", 0, 2), ("b", 0, 2), more=", base_model: b"),
        part(("z", 2, 4), ("a", 2, 4)),
        base="z",
        parameters="t: 0.5",
    )
    assert slabs(text) == [{"b": [0, 2], "1:a": [0, 2]}, {"z": [2, 4], "3:a": [2, 4]}]


def test_parameters_of_a_slice_are_rules_for_its_layers_in_the_result():
    text = stacked(
        "passthrough",
        part(("a", 2, 4), more=", parameters: {scale: [0, 1]}"),
        part(("b", 0, 1)),
        part(("a", 0, 2), more=", parameters: {scale: [{filter: mlp, value: 3}]}"),
    )
    first, second = recipe(text).sources
    assert [rule.model_dump(exclude_defaults=True) for rule in first.parameters["scale"]] == [
        {"value": 0.0, "layers": (0, 1)},
        {"value": 1.0, "layers": (1, 2)},
        {"value": 3.0, "layers": (3, 5), "tensor": "mlp"},
        {"value": 1.0, "layers": (3, 5)},
        {"value": 0.0, "component": "embedding"},
        {"value": 3.0, "tensor": "mlp"},
        {"value": 1.0},
    ]
    assert second.parameters == {}


def test_models_that_mergekit_would_drop_are_named():
    text = stacked(
        "linear", part(("a", 0, 2)), part(("b", 2, 4), ("c", 2, 4)), parameters="weight: 1"
    )
    with pytest.raises(
        RecipeError, match=r"so mergekit drops c from the .*; --mergekit-compat doe"
    ):
        recipe(text)
    assert slabs(text, compat=True) == [
        {"a": [0, 2]},
        {"b": [2, 4], "c": [2, 4]},
        {"b": [2, 2]},
    ]


# Stages

STAGES = """
name: first
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
---
name: second
merge_method: passthrough
slices:
  - sources: [{model: first, layer_range: [0, 4]}]
  - sources: [{model: c, layer_range: [2, 4]}]
---
merge_method: ties
base_model: second
models: [{model: second}, {model: third}]
parameters: {weight: 1}
---
name: third
merge_method: passthrough
models: [{model: second}]
"""


def test_stages_are_recipes_inside_the_recipe():
    found = recipe(STAGES)
    assert (found.base, found.operator) == ("a", "ties")
    assert found.base_recipe is not None
    assert found.base_recipe.operator == "passthrough"
    assert found.base_recipe.sources[0].recipe == recipe(STAGES.split("---", maxsplit=1)[0])
    (third,) = found.sources
    assert third.label == "third"
    assert third.recipe is not None
    assert third.recipe.sources[0].recipe == found.base_recipe


def test_a_stage_has_as_many_layers_as_it_stacks():
    text = STAGES.split("---\nmerge_method: ties", maxsplit=1)[0]
    whole = stacked("passthrough", part(("second", 0, 6)))
    assert recipe(f"{text}---\n{whole}").stack is None
    cut = stacked("passthrough", part(("second", 0, 5)))
    assert recipe(f"{text}---\n{cut}").stack is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmerge_method: passthrough\nmodels: [{model: a}]\n", "a: is merged from itself"),
        (STAGES.replace("name: third\n", ""), "m.yaml:18: is the second document without a name"),
        (STAGES.replace("name: third", "name: first"), "name: expected a word of its own, found"),
    ],
)
def test_stages_that_make_no_sense_are_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        recipe(text)


def chain(length: int) -> str:
    """Documents of which each averages the one before with a model."""
    names = ["a", *(f"stage{number}" for number in range(length))]
    return "---\n".join(
        f"name: {name}\nmerge_method: linear\n"
        f"models: [{{model: {before}}}, {{model: b}}]\nparameters: {{weight: 1}}\n"
        for before, name in itertools.pairwise(names)
    ).replace(f"name: {names[-1]}\n", "")


def test_a_chain_of_stages_is_written_once():
    written = to_yaml(recipe(chain(MAX_DEPTH)))
    assert written.count("model: a") == 1
    assert validate(MergeRecipe, yaml.parse(written, "x")) == recipe(chain(MAX_DEPTH))


def test_a_stage_that_is_not_measured_from_passes_its_dtype_on():
    text = chain(2).replace("models: [{model: a}", "dtype: float16\nmodels: [{model: a}")
    found = recipe(text)
    assert (found.base, found.base_recipe, found.dtype) == ("a", None, "float16")


@pytest.mark.parametrize("length", [MAX_DEPTH + 1, 900])
def test_a_chain_of_too_many_stages_is_refused(length):
    with pytest.raises(RecipeError, match=f"{MAX_DEPTH} (are read|documents one after the other)"):
        recipe(chain(length))


def test_merge_keys_are_followed():
    text = """
models:
  - {model: a, parameters: &shared {weight: 0.3, density: 0.5}}
  - {model: b, parameters: {<<: *shared, weight: 0.4}}
merge_method: ties
base_model: z
"""
    first, second = recipe(text).sources
    assert first.parameters == {"weight": 0.3, "density": 0.5}
    assert second.parameters == {"weight": 0.4, "density": 0.5}


@pytest.mark.parametrize(
    ("method", "layers", "expected"),
    [("dare_linear", 1, 1), ("dare_linear", 3, 0), ("task_arithmetic", 1, 0)],
)
def test_masks_of_repeated_layers_are_said_to_differ(method, layers, expected):
    text = stacked(
        method,
        part(("z", 0, 3), ("a", 0, 3)),
        part(("z", layers, layers + 3), ("a", layers, layers + 3)),
        base="z",
        parameters="weight: 1",
    )
    notes = from_mergekit(yaml.parse_all(text, "m.yaml"), lambda _: 6, compat=True).notes
    assert sum("repeat a layer" in note for note in notes) == expected


# Methods


def body(method: str) -> str:
    """A document that says no more than it must."""
    known = METHODS[method]
    models = {"slerp": 2, "nearswap": 2, "arcee_fusion": 2, "nuslerp": 2, "passthrough": 1}
    count = models.get(method, 3) - (known.base == "first")
    listed = ", ".join(f"{{model: {name}}}" for name in "abc"[:count])
    base = "" if method == "passthrough" else "base_model: z\n"
    needed = [p.name for p in known.parameters if p.default is None]
    return (
        f"merge_method: {method}\n{base}models: [{listed}]\n"
        f"parameters: {{{', '.join(f'{name}: 0.5' for name in needed)}}}\n"
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_a_recipe_does_not_say_is_mergekit_s_default(method):
    found = recipe(body(method))
    ours = check_operator(found).parameters
    given = {**found.parameters, **found.sources[0].parameters}
    for parameter in METHODS[method].parameters:
        if parameter.ours is None or parameter.default is None:
            continue
        words = parameter.words
        expected = words[parameter.default] if words else parameter.default
        assert given.get(parameter.ours, ours[parameter.ours].default) == expected, parameter


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_we_have_fixed_may_be_given_as_they_are(method):
    fixed = [p for p in METHODS[method].parameters if p.ours is None]
    for parameter in fixed:
        text = body(method).replace("parameters: {", f"parameters: {{{parameter.name}: %s, ")
        recipe((text % parameter.default).lower())
        other = "true" if parameter.is_flag else 77
        with pytest.raises(RecipeError, match=f"{parameter.name}: {method} is read with its def"):
            recipe(text % other)


@pytest.mark.parametrize(
    ("method", "flags", "operator", "words"),
    [
        ("nuslerp", "nuslerp_flatten: true", "nuslerp", {}),
        ("nuslerp", "nuslerp_row_wise: true", "nuslerp", {}),
        ("nuslerp", "nuslerp_flatten: false", "nuslerp_lines", {"along": "rows"}),
        (
            "nuslerp",
            "nuslerp_flatten: false, nuslerp_row_wise: true",
            "nuslerp_lines",
            {"along": "columns"},
        ),
        ("model_stock", "filter_wise: false", "model_stock", {}),
        ("model_stock", "filter_wise: true", "model_stock_rows", {}),
    ],
)
def test_flags_that_choose_a_variant_choose_an_operator(method, flags, operator, words):
    found = recipe(body(method).replace("parameters: {", f"parameters: {{{flags}, "))
    assert (found.operator, dict(found.parameters)) == (operator, words)


def test_a_variant_is_chosen_for_the_whole_merge():
    flags = "nuslerp_flatten: [{filter: mlp, value: false}]"
    with pytest.raises(RecipeError, match="nuslerp_flatten: is read as one value for the whole m"):
        recipe(body("nuslerp").replace("parameters: {", f"parameters: {{{flags}, "))


def test_without_a_base_arcs_are_around_the_origin():
    assert recipe(body("nuslerp").replace("base_model: z\n", "")).parameters["around"] == "origin"


@pytest.mark.parametrize("word", ["true", "'yes'", "1", "on"])
def test_flags_may_be_written_as_mergekit_reads_them(word):
    text = body("ties").replace("parameters: {", f"parameters: {{normalize: {word}, ")
    assert (
        recipe(text).parameters.get(
            "normalize", find_operator("ties").parameters["normalize"].default
        )
        is True
    )


def test_numbers_may_be_quoted():
    text = body("linear").replace("weight: 0.5", "weight: '2e-1'")
    assert recipe(text).sources[0].parameters == {"weight": 0.2}


# Vocabularies


def test_the_source_of_the_tokenizer_is_taken_over():
    found = recipe(
        body("linear") + "tokenizer_source: {model: {path: b}}\nchat_template: chatml\n"
    )
    assert found.tokenizer is not None
    assert (found.tokenizer.source, found.chat_template) == ("b", "chatml")


def test_tokens_are_taken_over():
    found = recipe(
        body("linear") + "tokenizer:\n  source: union\n  pad_to_multiple_of: 8\n  tokens:\n"
        "    <a>: {source: b, force: yes}\n"
        "    <b>: {source: {kind: zero}}\n"
        "    <c>: {source: {kind: model_token, model: {path: c}, token_id: 3}}\n"
        "    <d>:\n"
    )
    assert found.model_dump(mode="json", exclude_defaults=True)["tokenizer"] == {
        "pad_to_multiple_of": 8,
        "tokens": {
            "<a>": {"source": "b", "force": True},
            "<b>": {"source": {"kind": "zero"}},
            "<c>": {"source": {"kind": "model_token", "model": "c", "token_id": 3}},
            "<d>": {},
        },
    }


# Chance and harm


def test_a_donor_that_mergekit_would_draw_is_the_first_model_with_a_note():
    reading = read(body("linear").replace("base_model: z\n", ""))
    assert reading.recipe.base == "a"
    (note,) = reading.notes
    assert note == (
        "m.yaml: no base_model, so config and tokenizer are those of a; mergekit would take any "
        "model's by chance"
    )


def test_unknown_keys_are_ignored_with_a_note_only_for_mergekit_s_bytes():
    text = body("ties") + "foo: 1\n"
    with pytest.raises(
        RecipeError, match=r"foo: unknown key, .*; --mergekit-compat does as mergek"
    ):
        read(text)
    (note,) = read(text, compat=True).notes
    assert note.startswith("m.yaml:5: foo: unknown key, which mergekit would ignore")


@pytest.mark.parametrize(
    ("dtypes", "compat", "stored"),
    [
        ("", None, "base"),
        ("dtype: float16\n", "float16", "base"),
        ("dtype: float32\nout_dtype: bfloat16\n", "float32", "bfloat16"),
        ("out_dtype: float64\n", None, "float64"),
    ],
)
def test_mergekit_s_bytes_come_from_mergekit_s_dtypes(dtypes, compat, stored):
    found = read(body("ties") + dtypes, compat=True, seed=9).recipe
    assert found.mergekit_compat is not None
    assert (found.mergekit_compat.dtype, found.dtype, found.seed) == (compat, stored, 9)
