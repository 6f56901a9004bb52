"""Whatever a mergekit recipe says, every tensor has the value that mergekit gives it."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from recipe.mergekit_reading import LAYERS, RESCALE, TENSORS, read, value
from recipe.mergekit_rules import parameters_of, value_in_mergekit

from evomerge.errors import RecipeError
from evomerge.operators.registry import find_operator
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.mergekit.write import to_mergekit

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe

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
