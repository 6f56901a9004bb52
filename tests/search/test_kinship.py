"""Promise: the best models are merged in pairs, with a strange one, until they are all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from evomerge.search.contract import Breeding, Finished, Result, StrategySettings
from evomerge.search.kinship import Kinship, kinship

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE, TWO = np.array([4.0, -1.0, 0.5, -3.0]), np.array([2.0, 3.0, -0.2, -1.0])


def started(
    fitness: Sequence[float | None], gram: tuple[tuple[float, ...], ...] | None = None
) -> Kinship:
    """A strategy whose sources have scored."""
    strategy = Kinship(
        StrategySettings(dimension=1, generation=8, seed=0, sources=len(fitness), gram=gram)
    )
    assert strategy.ask(8) == list(range(len(fitness)))
    strategy.tell([Result(fitness=each) for each in fitness])
    return strategy


def merged(strategy: Kinship, fitness: Sequence[float | None]) -> list[tuple[int, ...]]:
    """The pairs of the next generation, which then score as given."""
    pairs = []
    for each in strategy.ask(99):
        assert isinstance(each, Breeding)
        assert (each.operator, each.parameters) == ("linear", {})
        pairs.append(tuple(sorted(each.parents)))  # type: ignore[type-var]  # all are numbers
    strategy.tell([Result(fitness=each) for each in fitness])
    return pairs  # type: ignore[return-value]  # all are numbers


def test_kinship_follows_from_inner_products_as_from_the_task_vectors() -> None:
    deltas = np.stack([ONE, TWO])
    first, second = np.eye(2)
    assert kinship(deltas @ deltas.T, first, second) == pytest.approx(0.411509, abs=1e-6)
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    assert kinship(centred @ centred.T, first, second) == pytest.approx(0.449270, abs=1e-6)


def test_kinship_of_a_merge_is_that_of_its_task_vector() -> None:
    deltas = np.stack([ONE, TWO])
    child = (ONE + TWO) / 2
    expected = child @ ONE / (np.linalg.norm(child) * np.linalg.norm(ONE))
    found = kinship(deltas @ deltas.T, np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    assert found == pytest.approx(expected)
    assert kinship(deltas @ deltas.T, np.array([-1.0, 0.0]), np.array([1.0, 0.0])) == -1


def test_a_child_is_as_akin_to_one_parent_as_to_the_other_if_they_moved_as_far() -> None:
    gram = np.array([[9.0, 2.0], [2.0, 9.0]])
    child = np.array([0.5, 0.5])
    assert kinship(gram, child, np.eye(2)[0]) == kinship(gram, child, np.eye(2)[1])


def test_a_model_that_did_not_move_is_akin_to_none() -> None:
    assert kinship(np.diag([1.0, 0.0]), *np.eye(2)) == 0


def test_the_algorithm_traced_by_hand_on_three_unrelated_sources() -> None:
    # Asking for the sources takes the numbers 3 to 5; the first merges are 6 to 8.
    strategy = started([0.1, 0.2, 0.3])
    assert merged(strategy, [0.4, 0.5, 0.6]) == [(0, 1), (0, 2), (1, 2)]
    # The best three are all of them, with a kinship of 0.5; the best has no stranger left.
    assert merged(strategy, [0.7, 0.55, 0.1]) == [(7, 8), (6, 8), (6, 7)]
    # The best are 9, 8 and 10: (1, 1, 2), (0, 2, 2) and (1, 2, 1) quarters of the sources, with
    # a kinship of (0.8660 + 0.8333 + 0.8660) / 3 = 0.855. 11, the worst of all, is as strange to
    # 9 as 10 is, which 9 is merged with anyway.
    assert merged(strategy, [0.0, 0.0, 0.0, 0.0]) == [(8, 9), (9, 10), (8, 10), (9, 11)]
    with pytest.raises(Finished, match="the best 3 models stayed the same for a generation"):
        strategy.ask(8)


def test_the_best_is_also_merged_with_the_least_akin_model_of_the_last_generation() -> None:
    strategy = started([0.0] * 4)
    # 8 to 13; the last one, of the sources 2 and 3, shares nothing with 8, of 0 and 1.
    pairs = merged(strategy, [0.9, 0.8, 0.1, 0.7, 0.1, 0.1])
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert merged(strategy, [0.0] * 4) == [(8, 9), (8, 11), (9, 11), (8, 13)]


def test_kinship_has_a_sign() -> None:
    # Sources 0 and 1 are one direction, 2 the opposite: the least akin to 0 + 1 is 1 + 2's, which
    # moved back by less than it moved forth.
    gram = ((1.0, 1.0, -2.0), (1.0, 1.0, -2.0), (-2.0, -2.0, 4.0))
    strategy = started([0.0, 0.0, 0.0], gram)
    assert kinship(np.array(gram), np.array([0.5, 0.5, 0]), np.array([0, 0.5, 0.5])) == -1
    merged(strategy, [0.9, 0.8, None])
    assert strategy._mean_kinship([6, 7]) == -1


def test_it_ends_when_the_best_are_closely_akin() -> None:
    strategy = started([0.1, 0.2, 0.3], ((1.0,) * 3,) * 3)
    merged(strategy, [0.4, 0.5, 0.6])
    for _ in range(2):
        with pytest.raises(Finished, match=r"the best 3 models have a kinship of 1\.00"):
            strategy.ask(8)


def test_the_first_merges_may_all_be_worse_than_the_sources() -> None:
    strategy = started([0.7, 0.8, 0.9])
    merged(strategy, [0.1, 0.2, 0.3])
    # All pairs of the best three are there; the best source meets what it is no part of.
    assert merged(strategy, [0.0]) == [(2, 6)]
    with pytest.raises(Finished, match="stayed the same"):
        strategy.ask(8)


def test_the_same_combination_is_made_once() -> None:
    strategy = started([0.9, 0.1, 0.1])
    merged(strategy, [0.8, 0.75, 0.7])
    # The stranger to 0 is 8: but (2, 1, 1) quarters of the sources are what 6 and 7 make already.
    assert merged(strategy, [0.0, 0.0, 0.0]) == [(0, 6), (0, 7), (6, 7)]


def test_failed_models_are_merged_with_nobody() -> None:
    strategy = started([0.9, None, 0.5])
    assert merged(strategy, [None]) == [(0, 2)]
    with pytest.raises(Finished, match="the best models have been merged with one another"):
        strategy.ask(8)


def test_a_generation_is_handed_out_in_parts_and_waited_for() -> None:
    strategy = started([0.1, 0.2, 0.3])
    assert [len(strategy.ask(2)) for _ in range(3)] == [2, 1, 0]
    strategy.tell([Result(fitness=0.5)] * 2)
    assert strategy.ask(2) == []
    strategy.tell([Result(fitness=0.5)])
    assert len(strategy.ask(2)) == 2
