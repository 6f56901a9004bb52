"""Tokens are matched by their text, whatever ids the models have for them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.merging.vocabulary.changes import VocabularyChange, list_changes
from evomerge.merging.vocabulary.plan import (
    ABSENT,
    Average,
    Copy,
    VocabularyPlan,
    Zero,
    plan_vocabulary,
)
from evomerge.recipe.vocabulary import TokenizerSettings

BASE = {"a": 0, "b": 1, "c": 2}
ONE = {"b": 0, "d": 1, "a": 2}
TWO = {"d": 0, "a": 1, "e": 2}
MODELS = {"base": BASE, "one": ONE, "two": TWO}


def plan(models: dict[str, dict[str, int]] = MODELS, **settings: Any) -> VocabularyPlan:
    return plan_vocabulary(models, "base", TokenizerSettings.model_validate(settings))


def test_a_union_has_the_tokens_of_the_base_first_and_then_those_of_the_sources():
    union = plan(source="union")
    assert union.tokens == ("a", "b", "c", "d", "e")
    assert union.added == ("d", "e")
    assert union.dropped == ()
    assert union.ids == {
        "base": (0, 1, 2, ABSENT, ABSENT),
        "one": (2, 0, ABSENT, 1, ABSENT),
        "two": (1, ABSENT, ABSENT, 0, 2),
    }


def test_what_a_model_lacks_comes_from_the_only_one_that_has_it_the_base_or_the_mean():
    assert plan(source="union").fills == {
        1: Copy("base", 1),  # two models have b, one of them is the base
        2: Copy("base", 2),  # only the base has c
        3: Average(),  # two models have d, none of them is the base
        4: Copy("two", 2),  # only one model has e
    }


def test_the_tokens_of_the_base_keep_their_ids():
    base = plan(source="base")
    assert base.tokens == ("a", "b", "c")
    assert base.dropped == ("d", "e")
    assert base.fills == {1: Copy("base", 1), 2: Copy("base", 2)}


def test_the_tokens_of_a_named_model_keep_their_ids():
    two = plan(source="two")
    assert two.tokenizer == "two"
    assert two.tokens == ("d", "a", "e")
    assert two.fills == {0: Average(), 2: Copy("two", 2)}


def test_an_intersection_has_what_all_models_have_and_no_holes():
    common = plan(source="intersection")
    assert common.tokens == ("a",)
    assert common.ids == {"base": (0,), "one": (2,), "two": (1,)}
    assert common.fills == {}
    assert plan(source="intersection", tokens={"c": {}}).tokens == ("a", "c")


def test_models_without_a_common_token_have_no_intersection():
    with pytest.raises(MergeError, match="the models have no token in common"):
        plan({"base": {"a": 0}, "one": {"b": 0}}, source="intersection")


def test_tokens_that_a_recipe_names_are_in_the_result_in_the_order_of_the_alphabet():
    assert plan(source="base", tokens={"y": {}, "d": {}, "x": {}}).tokens == (*BASE, "d", "x", "y")


def test_what_a_recipe_says_comes_before_every_other_rule():
    tokens = {
        "b": {"source": {"kind": "zero"}},
        "c": {"source": {"kind": "model_token", "model": "two", "token": "e"}},
        "d": {"source": {"kind": "model_token", "model": "one", "token_id": 77}},
        "e": {"source": "two"},
        "f": {},
    }
    named = plan(source="union", tokens=tokens)
    assert named.fills == {
        1: Zero(),
        2: Copy("two", 2),
        3: Copy("one", 77),
        4: Copy("two", 2),
        5: Zero(),  # no model has f
    }
    assert named.ids["one"][:2] == (2, 0)  # what a model has, it keeps


def test_force_replaces_what_the_models_have():
    forced = plan(source="base", tokens={"a": {"source": "two", "force": True}})
    assert forced.fills[0] == Copy("two", 1)
    assert [ids[0] for ids in forced.ids.values()] == [ABSENT] * 3


@pytest.mark.parametrize(
    ("source", "missing"), [("one", "c"), ({"model": "two", "token": "b"}, "b")]
)
def test_an_embedding_that_the_named_model_lacks_is_refused(source, missing):
    if isinstance(source, dict):
        source = {"kind": "model_token", **source}
    with pytest.raises(MergeError, match=rf"tokens\.'c': (one|two) has no token '{missing}'"):
        plan(source="base", tokens={"c": {"source": source}})


def test_holes_among_ids_stay_and_padding_goes_to_the_next_multiple():
    models = {"base": {"a": 0, "b": 3}, "one": {"a": 0, "b": 1}}
    padded = plan(models, source="base", pad_to_multiple_of=6)
    assert padded.tokens == ("a", None, None, "b", None, None)
    assert padded.ids["one"] == (0, ABSENT, ABSENT, 1, ABSENT, ABSENT)
    assert padded.fills == {}
    assert len(plan(models, source="base", pad_to_multiple_of=4).tokens) == 4


def test_the_changes_are_counted_with_examples():
    assert list_changes(plan(source="base", pad_to_multiple_of=4, tokens={"x": {}})) == [
        VocabularyChange(what="tokens", count=4, examples=("a", "b", "c", "x")),
        VocabularyChange(what="added to those of base", count=1, examples=("x",)),
        VocabularyChange(what="dropped", count=2, examples=("d", "e")),
        VocabularyChange(what="where missing: from base", count=2, examples=("b", "c")),
        VocabularyChange(what="where missing: zeros", count=1, examples=("x",)),
    ]
    changes = list_changes(plan(source="union", pad_to_multiple_of=4))
    assert changes[-3:] == [
        VocabularyChange(what="where missing: from base", count=2, examples=("b", "c")),
        VocabularyChange(what="where missing: from two", count=1, examples=("e",)),
        VocabularyChange(what="without a token: mean of all", count=3, examples=()),
    ]


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, dict[str, int]]:
    """Tokens of one to four models that share at least `a`; ids are distinct, with holes."""
    models = {}
    for model in ["base", "one", "two", "three"][: draw(st.integers(1, 4))]:
        tokens = ["a", *draw(st.lists(st.sampled_from("bcdefgh"), unique=True))]
        ids = st.lists(st.integers(0, 12), unique=True, min_size=len(tokens), max_size=len(tokens))
        models[model] = dict(zip(tokens, draw(ids), strict=True))
    return models


@given(vocabularies())
def test_a_union_has_every_token_once_and_an_intersection_only_common_ones(models):
    union = [token for token in plan(models, source="union").tokens if token is not None]
    assert sorted(union) == sorted(set().union(*models.values()))
    common = plan(models, source="intersection").tokens
    assert set(common) == set(models["base"]).intersection(*models.values())


@given(vocabularies(), st.sampled_from(["base", "union", "intersection"]), st.integers(1, 9))
def test_every_token_has_an_embedding_in_every_model(models, source, multiple):
    made = plan(models, source=source, pad_to_multiple_of=multiple)
    assert len(made.tokens) % multiple == 0
    for model, ids in made.ids.items():
        for new, (token, own) in enumerate(zip(made.tokens, ids, strict=True)):
            if token is None:
                assert own == ABSENT
                assert new not in made.fills
            elif own == ABSENT:
                assert token not in models[model]
                assert new in made.fills
            else:
                assert models[model][token] == own


@given(vocabularies(), st.randoms(use_true_random=False))
def test_other_ids_in_the_sources_change_where_rows_are_read_and_nothing_else(models, random):
    turned = {"base": models["base"]}
    for model in [name for name in models if name != "base"]:
        ids = list(models[model].values())
        # The tokens that are new to the result keep their order.
        random.shuffle(ids)
        turned[model] = dict(zip(models[model], ids, strict=True))
    one, other = plan(models, source="base"), plan(turned, source="base")
    assert one.tokens == other.tokens
    for model in models:
        back = {new: old for token, new in turned[model].items() for old in [models[model][token]]}
        assert tuple(back.get(own, ABSENT) for own in other.ids[model]) == one.ids[model]
