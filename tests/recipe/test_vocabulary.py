"""What a recipe may say about tokens and templates is checked where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.digest import digest
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.load import validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.vocabulary import ModelToken, ZeroEmbedding

PLAIN: dict[str, Any] = {"base": "m/base", "sources": ["m/one", "m/two"], "operator": "linear"}
TOKENS: dict[str, Any] = {
    "<s>": {"source": "m/one", "force": True},
    "<|im_start|>": {"source": {"kind": "model_token", "model": "m/two", "token": "no: yes"}},
    "#": {"source": {"kind": "model_token", "model": "m/base", "token_id": 3}},
    "zero": {"source": {"kind": "zero"}},
    "new": {},
}


def load(**fields: Any) -> MergeRecipe:
    return MergeRecipe.model_validate(PLAIN | fields)


def refusal(**fields: Any) -> str:
    document = yaml.parse(to_yaml(PLAIN | fields), "r.yaml")
    with pytest.raises(RecipeError) as refused:
        validate(MergeRecipe, document)
    return str(refused.value)


def test_embeddings_come_from_models_tokens_and_zeros():
    recipe = load(tokenizer={"source": "union", "tokens": TOKENS})
    assert recipe.tokenizer is not None
    sources = {token: rule.source for token, rule in recipe.tokenizer.tokens.items()}
    assert sources == {
        "<s>": "m/one",
        "<|im_start|>": ModelToken(kind="model_token", model="m/two", token="no: yes"),
        "#": ModelToken(kind="model_token", model="m/base", token_id=3),
        "zero": ZeroEmbedding(kind="zero"),
        "new": None,
    }


def test_yaml_brings_back_the_same_recipe():
    recipe = load(
        tokenizer={"source": "m/one", "tokens": TOKENS, "pad_to_multiple_of": 8},
        chat_template="{% for m in messages %}\n{{ m }}\n{% endfor %}",
    )
    assert validate(MergeRecipe, yaml.parse(to_yaml(recipe), "r.yaml")) == recipe


def test_asking_for_a_vocabulary_or_a_template_changes_the_digest():
    asked = [
        load(),
        load(tokenizer={}),
        load(tokenizer={"source": "base"}),
        load(tokenizer={"pad_to_multiple_of": 8}),
        load(tokenizer={"tokens": {"a": {}}}),
        load(tokenizer={"tokens": {"a": {"source": {"kind": "zero"}}}}),
        load(tokenizer={"tokens": {"a": {"source": {"kind": "zero"}, "force": True}}}),
        load(chat_template="auto"),
    ]
    assert len({digest(recipe) for recipe in asked}) == len(asked)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"kind": "model_token", "model": "m/one"},
            "give exactly one of token, token_id; found none",
        ),
        (
            {"kind": "model_token", "model": "m/one", "token": "a", "token_id": 1},
            "give exactly one of token, token_id; found both",
        ),
        (
            {"kind": "model_token", "model": "m/one", "token_id": -1},
            "input should be greater than or equal to 0, found -1",
        ),
        ({"kind": "mean"}, "expected 'model_token', found 'mean'"),
        ("m/three", "tokenizer.tokens.'a'.source: 'm/three' is no model of this recipe"),
    ],
)
def test_an_embedding_that_cannot_be_is_refused(source, message):
    assert message in refusal(tokenizer={"tokens": {"a": {"source": source}}})


def test_force_without_a_source_is_refused():
    assert "force: needs a source" in refusal(tokenizer={"tokens": {"a": {"force": True}}})


def test_a_tokenizer_of_no_model_of_the_recipe_is_refused():
    assert refusal(tokenizer={"source": "m/three"}) == (
        "r.yaml:1: tokenizer.source: 'm/three' is no model of this recipe; "
        "its models: m/base, m/one, m/two"
    )


@pytest.mark.parametrize("size", [0, -8, 1.5, True])
def test_padding_is_to_a_positive_whole_number(size):
    assert "tokenizer.pad_to_multiple_of" in refusal(tokenizer={"pad_to_multiple_of": size})


@pytest.mark.parametrize("name", ["auto", "alpaca", "chatml", "exaone", "llama3", "mistral"])
def test_templates_are_named(name):
    assert load(chat_template=name).chat_template == name


def test_a_template_that_is_neither_known_nor_jinja_is_refused():
    assert refusal(chat_template="chatlm") == (
        "r.yaml:6: chat_template: expected auto, alpaca, chatml, exaone, llama3, mistral or a "
        "Jinja template, found 'chatlm'"
    )


def test_sources_that_are_recipes_do_not_go_with_a_tokenizer():
    message = refusal(sources=["m/one", {"recipe": PLAIN}], tokenizer={"source": "union"})
    assert "sources.1: is a recipe or candidate; with a tokenizer, every source" in message
    message = refusal(base_recipe=PLAIN, tokenizer={"source": "union"})
    assert "base_recipe: is a recipe; with a tokenizer, the base must be a model" in message


@pytest.mark.parametrize("field", [{"tokenizer": {}}, {"chat_template": "auto"}])
def test_only_the_outermost_recipe_asks_for_a_tokenizer(field):
    message = refusal(sources=[{"recipe": PLAIN | field}])
    assert "sources.0.recipe: only the outermost recipe may have a tokenizer" in message
    message = refusal(base_recipe=PLAIN | field)
    assert "base_recipe: only the outermost recipe may have a tokenizer" in message
