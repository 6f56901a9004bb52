"""NSGA-II keeps the best at every task, and finds more of a trade-off than random search."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.nsga2 import NSGA2, SMALLEST, objectives, survivors
from evomerge.search.pareto import hypervolume, pareto_ranks
from evomerge.search.strategies import build_strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Point
    from evomerge.search.pareto import Scores

SIZE = 8
levels = st.integers(0, 5)


def _nsga2(dimension: int = 3, generation: int = SIZE, seed: int = 0) -> NSGA2:
    return NSGA2(StrategySettings(dimension=dimension, generation=generation, seed=seed))


def _result(scores: Sequence[float]) -> Result:
    return Result(fitness=sum(scores), scores=tuple(scores))


def test_survivors_by_hand() -> None:
    scores = [[2, 6], [1, 1], [0, 10], [5, 5], [10, 0], [2, 5]]
    # The ends of the front, the lonelier of the others, the rest of it, then the second rank.
    assert survivors(np.array(scores, dtype=float), 6) == [2, 4, 3, 0, 5, 1]
    assert survivors(np.array(scores, dtype=float), 3) == [2, 4, 3]


def test_of_equals_the_older_survives() -> None:
    assert survivors(np.full((4, 2), 0.5), 2) == [0, 1]


def test_a_copy_in_scores_makes_room_for_what_is_different() -> None:
    scores = [[0, 10], [5, 5], [5, 5], [10, 0], [6, 4]]
    assert survivors(np.array(scores, dtype=float), 4) == [0, 3, 1, 4]


@given(
    rows=st.integers(2, 4).flatmap(
        lambda tasks: st.lists(st.tuples(*[levels] * tasks), min_size=1, max_size=40)
    )
)
def test_the_best_at_each_task_survives_and_no_one_who_is_dominated_before_who_is_not(
    rows: list[tuple[int, ...]],
) -> None:
    scores = np.array(rows, dtype=float)
    kept = survivors(scores, SIZE)
    assert len(set(kept)) == len(kept) == min(SIZE, len(rows))
    assert scores[kept].max(axis=0).tolist() == scores.max(axis=0).tolist()
    ranks = pareto_ranks(scores)[kept]
    assert (np.diff(ranks) >= 0).all()


@pytest.mark.parametrize(
    ("result", "maximised"),
    [
        (Result(fitness=None), ()),
        (Result(fitness=0.5), (0.5,)),
        (Result(fitness=0.5, scores=(0.7,)), (0.5,)),
        (Result(fitness=0.5, scores=(0.7, 0.3)), (0.7, 0.3)),
    ],
)
def test_the_objectives_are_the_scores_where_there_are_several(
    result: Result, maximised: tuple[float, ...]
) -> None:
    assert objectives(result) == maximised


@given(
    generations=st.lists(
        st.lists(st.none() | st.tuples(levels, levels), min_size=1, max_size=12), max_size=6
    )
)
def test_the_best_at_each_task_is_never_lost(
    generations: list[list[tuple[int, int] | None]],
) -> None:
    strategy, seen = _nsga2(), []
    for rows in generations:
        points = strategy.ask(len(rows))
        strategy.tell([Result(fitness=None) if row is None else _result(row) for row in rows])
        seen += [(p, row) for p, row in zip(points, rows, strict=True) if row is not None]
        kept = zip(map(tuple, strategy._points.tolist()), strategy._scores, strict=True)
        population = list(kept)
        assert len(population) == min(len(seen), SIZE)
        assert set(population) <= set(seen)
        for task in (0, 1):
            best = max((row[task] for _, row in seen), default=0)
            assert max((row[task] for _, row in population), default=0) == best


@pytest.mark.parametrize(("generation", "size"), [(1, SMALLEST), (SMALLEST, SMALLEST), (20, 20)])
def test_the_population_has_the_size_of_a_generation(generation: int, size: int) -> None:
    strategy = _nsga2(generation=generation)
    for _ in range(50):
        points = strategy.ask(generation)
        strategy.tell([_result(point) for point in points])
    assert len(strategy._points) == len(strategy._scores) == size
    assert not strategy._asked


def _second_generation(rows: list[Result]) -> tuple[list[Point], list[Point]]:
    strategy = _nsga2(dimension=20)
    first = strategy.ask(SIZE)
    strategy.tell(rows)
    return first, strategy.ask(SIZE)


def _shared(parents: list[Point], children: list[Point]) -> float:
    """Share of the children's coordinates that some parent has as well."""
    return float((np.array(children)[:, None] == np.array(parents)).any(axis=1).mean())


def test_children_take_after_their_parents_and_are_no_copies() -> None:
    first, second = _second_generation([_result((0.1 * i, 1.0)) for i in range(SIZE)])
    assert _shared(first, second) > 0.3
    assert set(second).isdisjoint(first)


@pytest.mark.parametrize("population", [4, 8])
def test_parents_are_two(population: int) -> None:
    strategy = _nsga2()
    strategy.ask(population)
    strategy.tell([_result((0.5, 0.5))] * population)
    assert all(len(set(strategy._parents())) == 2 for _ in range(100))


@pytest.mark.parametrize("alive", [0, 1])
def test_without_two_parents_points_are_random(alive: int) -> None:
    results = [_result((0.5, 0.5))] * alive + [Result(fitness=None)] * (SIZE - alive)
    assert _shared(*_second_generation(results)) == 0


def test_founders_do_not_depend_on_what_was_told() -> None:
    patient, hasty = _nsga2(), _nsga2()
    points = patient.ask(SIZE)
    for point in points:
        assert hasty.ask(1) == [point]
        hasty.tell([_result(point)])


def _trade_off(points: Sequence[Point], optima: Scores) -> Scores:
    """Near each optimum another task is solved."""
    squares = ((np.array(points)[:, None] - optima) ** 2).mean(axis=2)
    scores: Scores = np.exp(-squares / 0.05)
    return scores


@functools.cache
def _volume(name: StrategyName, seed: int, tasks: int) -> float:
    """What a search of 160 candidates dominates, in nine dimensions."""
    optima = np.random.default_rng(1000 + seed).uniform(0.2, 0.8, (tasks, 9))
    strategy = build_strategy(name, StrategySettings(dimension=9, generation=16, seed=seed))
    found = []
    for _ in range(10):
        scores = _trade_off(strategy.ask(16), optima)
        strategy.tell([_result(row) for row in scores.tolist()])
        found.append(scores)
    return hypervolume(np.concatenate(found), np.zeros(tasks))


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [2, 3])
def test_it_dominates_more_than_random_search_seed_by_seed(tasks: int) -> None:
    gains = [_volume("NSGA2", seed, tasks) / _volume("random", seed, tasks) for seed in range(10)]
    assert min(gains) > 1
    assert statistics.mean(gains) > 1.8
