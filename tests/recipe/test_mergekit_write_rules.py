"""Whatever a recipe says, mergekit gives every tensor the same value by its own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe.mergekit_rules import KEYS, parameters_of
from recipe.mergekit_writing import GPT2, GPT_NEOX, LLAMA, assert_mergekit_agrees, make, write

from evomerge.operators.registry import find_operator
from evomerge.recipe.dump import to_yaml

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe

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
