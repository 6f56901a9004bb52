"""Promise: what contexts have in common at their beginning is read once, if that saves much."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.passes.prefixes import WORTH_SHARING, shared_prefixes

Tokens = tuple[int, ...]


def read(contexts: list[Tokens]) -> int:
    """Tokens that are read."""
    groups = shared_prefixes(contexts)
    own = sum(len(contexts[m]) - group.length for group in groups for m in group.members)
    return own + sum(group.length for group in groups)


def questions(prefix: Tokens, count: int, seed: int = 0) -> list[Tokens]:
    rng = random.Random(seed)
    return [prefix + tuple(rng.choices(range(1000), k=20)) for _ in range(count)]


beginnings = st.sampled_from([(), (1,) * 90, (1,) * 40 + (2,) * 70, (3,) * 200])
contexts = st.lists(
    st.builds(lambda a, b: a + tuple(b), beginnings, st.lists(st.integers(0, 3), min_size=1)),
    max_size=12,
)


@given(contexts)
def test_every_context_is_in_one_group_whose_members_begin_alike(contexts: list[Tokens]) -> None:
    groups = shared_prefixes(contexts)
    assert sorted(m for group in groups for m in group.members) == list(range(len(contexts)))
    for group in groups:
        members = [contexts[m] for m in group.members]
        assert len({member[: group.length] for member in members}) == 1
        assert all(len(member) > group.length for member in members)


@given(contexts)
def test_sharing_never_reads_more(contexts: list[Tokens]) -> None:
    assert read(contexts) <= sum(map(len, contexts))


def test_a_system_prompt_is_read_once() -> None:
    prompt = tuple(range(300))
    assert read(questions(prompt, 10)) == 300 + 10 * 20


def test_two_tasks_with_prompts_of_their_own_are_two_groups() -> None:
    first, second = (7,) * 100, (8,) * 150
    contexts = questions(first, 5) + questions(second, 6, seed=1)
    assert read(contexts) == 250 + 11 * 20


def test_a_longer_beginning_of_a_few_gives_way_to_a_shorter_one_of_many() -> None:
    shared = (5,) * 200
    contexts = questions(shared, 20) + questions((*shared, 6, 6), 2, seed=1)
    assert [group.length for group in shared_prefixes(contexts)] == [200]


@pytest.mark.parametrize("length", [0, WORTH_SHARING - 1])
def test_a_few_tokens_in_common_are_not_worth_a_pass(length: int) -> None:
    (group,) = shared_prefixes(questions((9,) * length, 8))
    assert group.length == 0


def test_a_context_that_is_the_beginning_of_another_keeps_its_last_token() -> None:
    whole = tuple(range(400))
    (group,) = shared_prefixes([whole[:300], whole, (*whole, 7)])
    assert group.length == 299
