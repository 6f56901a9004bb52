"""A file for mergekit-evolve describes the same search here, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.load import validate
from evomerge.recipe.mergekit.evolve import from_evolve, is_evolve
from evomerge.recipe.search import SearchRecipe

TEXT = """
genome:
  models: [org/math, org/chat]
  merge_method: dare_ties
  base_model: org/base
  layer_granularity: 8
  allow_negative_weights: true
  filters: [self_attn, mlp]
tasks:
  - name: gsm8k_train
    weight: 0.5
    metric: exact_match,strict-match
  - arc_train
limit: 40
num_fewshot: 3
apply_chat_template: false
"""


def read(text: str) -> tuple[SearchRecipe, tuple[str, ...]]:
    reading = from_evolve(yaml.parse(text, "e.yaml"), lambda _: 32)
    return validate(SearchRecipe, reading.document), reading.notes


def with_genome(**changes: Any) -> str:
    genome = {"models": "[a, b]", "merge_method": "ties", "base_model": "z"} | changes
    lines = "".join(f"  {key}: {value}\n" for key, value in genome.items() if value)
    return f"genome:\n{lines}tasks: [t]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(TEXT, True), ("genome: {operator: ties}", False), ("merge_method: ties", False)],
)
def test_it_is_known_by_the_method_of_its_genome(text, expected):
    assert is_evolve(yaml.parse(text, "e.yaml")) is expected


def test_everything_that_it_says_is_in_the_search_recipe():
    recipe, notes = read(TEXT)
    assert recipe == SearchRecipe.model_validate(
        {
            "base": "org/base",
            "sources": ["org/math", "org/chat"],
            "evaluation": {
                "tasks": [
                    {
                        "name": "gsm8k_train",
                        "weight": 0.5,
                        "metric": "exact_match,strict-match",
                        "num_fewshot": 3,
                    },
                    {"name": "arc_train", "metric": "acc,none", "num_fewshot": 3},
                ],
                "items": {"search": 40},
            },
            "genome": {
                "operator": "dare_ties",
                "layer_groups": 4,
                "components": ["attention", "mlp"],
                "ranges": {"weight": [-1, 1]},
                "fixed": {"normalize": True, "rescale": "norm"},
            },
        }
    )
    assert notes == ()


@pytest.mark.parametrize(
    ("method", "normalize", "expected"),
    [("ties", "", True), ("task_arithmetic", "", False), ("ties", "false", False)],
)
def test_it_normalizes_where_mergekit_evolve_does(method, normalize, expected):
    recipe, _ = read(with_genome(merge_method=method, normalize=normalize))
    assert recipe.genome.fixed["normalize"] is expected


def test_one_group_of_layers_is_the_default():
    assert read(with_genome())[0].genome.layer_groups == 1


def test_the_base_among_the_models_has_no_task_vector():
    recipe, _ = read(with_genome(models="[a, z, b]"))
    assert [source.model for source in recipe.sources] == ["a", "b"]


def test_without_a_base_the_first_model_is_the_base_of_an_average():
    recipe, _ = read(with_genome(merge_method="linear", base_model=""))
    assert (recipe.base, [s.model for s in recipe.sources]) == ("a", ["a", "b"])


def test_what_is_done_otherwise_is_said():
    _, notes = read(with_genome(merge_method="slerp"))
    assert [note.split(": ")[1] for note in notes] == ["apply_chat_template", "limit", "slerp"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "foo: 1\n", "e.yaml:17: foo: unknown key"),
        (with_genome(modles="[a]"), "modles: unknown key, .*did you mean 'models'"),
        (with_genome(merge_method="della"), "'della' is not one of mergekit-evolve's: linear, "),
        (with_genome(base_model=""), "base_model: is missing"),
        (with_genome(models="[]"), "models: expected a list of entries"),
        (with_genome(layer_granularity="5"), "expected a divisor of 32 layers, found 5"),
        (with_genome(smooth="true"), "smooth: layer groups have values of their own here"),
        (with_genome(tokenizer_source="union"), "tokenizer_source: all candidates keep the tok"),
        (with_genome(filters="[rotary]"), "filters: 'rotary' is no part that is searched"),
        (with_genome() + "random_init: true\n", "random_init: a search starts from known merges"),
        (with_genome().replace("[t]", "[{name: t, weight: -1}]"), "weight: expected a positive"),
        (with_genome().replace("[t]", "[{nmae: t}]"), "nmae: unknown key"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("apply_chat_template: true", (True, True)),
        ("apply_chat_template: true\nfewshot_as_multiturn: false", (True, False)),
        ("apply_chat_template: false", (False, True)),
    ],
)
def test_a_chat_template_is_used_if_it_is_asked_for(given, expected):
    found, notes = read(TEXT.replace("apply_chat_template: false", given))
    assert {(t.chat_template, t.fewshot_as_multiturn) for t in found.evaluation.tasks} == {
        expected
    }
    assert not any("chat_template" in note for note in notes)
