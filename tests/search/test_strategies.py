"""Every strategy repeats itself, stays in the cube and outlives failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.recipe.search import StrategyName
from evomerge.search.contract import Point, Result, StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES, build_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evomerge.search.contract import Strategy

GENERATION = 8

of_points = sorted(STRATEGIES.keys() - BREEDERS.keys())
every_strategy = pytest.mark.parametrize("name", of_points)
endless = pytest.mark.parametrize("name", [each for each in of_points if each != "Coordinate"])
"""Those that propose points for ever; what ends by itself is tested by itself."""


def _strategy(
    name: StrategyName, dimension: int = 5, generation: int = GENERATION, seed: int = 0
) -> Strategy:
    return build_strategy(
        name, StrategySettings(dimension=dimension, generation=generation, seed=seed)
    )


def told(fitness: Sequence[float | None]) -> list[Result]:
    """Results of two tasks and six items."""
    return [
        Result(fitness=None)
        if value is None
        else Result(fitness=value, scores=(value, -value), items=_items(value))
        for value in fitness
    ]


def _items(value: float) -> tuple[float, ...]:
    return tuple(float(value > bar) for bar in (-1.0, -0.5, -0.3, -0.2, -0.1, 0.0))


def _fitness(points: Sequence[Point]) -> list[float | None]:
    """Higher the nearer a point is to 0.7 everywhere."""
    return [-sum((coordinate - 0.7) ** 2 for coordinate in point) for point in points]


def _failing(points: Sequence[Point]) -> list[float | None]:
    return [None] * len(points)


def _every_third_failing(points: Sequence[Point]) -> list[float | None]:
    return [None if i % 3 == 0 else value for i, value in enumerate(_fitness(points))]


def _play(
    strategy: Strategy,
    counts: Sequence[int],
    judge: Callable[[Sequence[Point]], list[float | None]] = _fitness,
    between: Callable[[], object] = lambda: None,
) -> list[Point]:
    """Ask and tell, generation by generation; all points."""
    found: list[Point] = []
    for count in counts:
        points = strategy.ask(count)
        between()
        strategy.tell(told(judge(points)))
        between()
        found += points
    return found


def _in_cube(points: Sequence[Point], dimension: int) -> bool:
    cube = np.array(points)
    return cube.shape == (len(points), dimension) and bool(((cube >= 0) & (cube <= 1)).all())


@endless
@pytest.mark.parametrize("dimension", [1, 2, 9, 24, 60])
def test_points_are_in_the_cube_in_every_dimension(name: StrategyName, dimension: int) -> None:
    points = _play(_strategy(name, dimension), [GENERATION] * 4)
    assert len(points) == 4 * GENERATION
    assert _in_cube(points, dimension)


@every_strategy
@pytest.mark.parametrize("dimension", [1, 9, 24])
def test_the_same_calls_give_the_same_points_whatever_the_global_generator_did(
    name: StrategyName, dimension: int
) -> None:
    first = _play(_strategy(name, dimension), [GENERATION] * 5)
    second = _play(
        _strategy(name, dimension),
        [GENERATION] * 5,
        between=lambda: np.random.rand(3),  # noqa: NPY002 (it is the global one that is moved)
    )
    assert first == second


@every_strategy
def test_the_global_generator_is_left_alone(name: StrategyName) -> None:
    strategy = _strategy(name)
    _play(strategy, [GENERATION])
    before = _next_global_numbers()
    _play(strategy, [GENERATION] * 2)
    _play(_strategy(name), [GENERATION])
    assert _next_global_numbers() == before


def _next_global_numbers() -> list[float]:
    """What the global generator would give next."""
    state = np.random.get_state()  # noqa: NPY002 (the global one is meant)
    ahead = np.random.RandomState()
    ahead.set_state(state)
    return ahead.random_sample(3).tolist()


@every_strategy
def test_a_replay_from_the_recorded_outcomes_goes_on_with_the_same_points(
    name: StrategyName,
) -> None:
    counts, judge = [GENERATION] * 3, _every_third_failing
    original, replayed = _strategy(name), _strategy(name)
    recorded = [_play(original, [count], judge) for count in counts]
    for points in recorded:
        assert replayed.ask(len(points)) == points
        replayed.tell(told(judge(points)))
    assert replayed.ask(GENERATION) == original.ask(GENERATION)


@every_strategy
def test_another_seed_gives_other_points(name: StrategyName) -> None:
    first, second = (_play(_strategy(name, seed=seed), [GENERATION]) for seed in (0, 1))
    assert first != second


@every_strategy
def test_points_are_plain_numbers(name: StrategyName) -> None:
    """They are stored as JSON."""
    (point, *_) = _strategy(name).ask(GENERATION)
    assert type(point) is tuple
    assert {type(coordinate) for coordinate in point} == {float}


@every_strategy
@pytest.mark.parametrize(
    "judge", [_failing, _every_third_failing], ids=["all fail", "every third fails"]
)
def test_failures_do_not_stop_it(
    name: StrategyName, judge: Callable[[Sequence[Point]], list[float | None]]
) -> None:
    strategy = _strategy(name)
    _play(strategy, [GENERATION] * 3, judge)
    assert _in_cube(_play(strategy, [GENERATION] * 3), 5)


@every_strategy
def test_a_last_generation_may_be_cut_short(name: StrategyName) -> None:
    points = _play(_strategy(name), [GENERATION, GENERATION, 3, 1])
    assert len(points) == 2 * GENERATION + 4
    assert _in_cube(points, 5)


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA", "SHADE", "GA"])
def test_a_search_over_hundreds_of_genes_goes_on_after_a_generation_that_was_cut(
    name: StrategyName,
) -> None:
    points = _play(_strategy(name, dimension=320), [GENERATION, GENERATION, 3, GENERATION, 5, 8])
    assert _in_cube(points, 320)


@every_strategy
@pytest.mark.parametrize("generation", [1, 2, 3, 5, 32])
def test_a_generation_of_any_size_works(name: StrategyName, generation: int) -> None:
    points = _play(_strategy(name, generation=generation), [generation] * 6)
    assert _in_cube(points, 5)


@endless
@given(fitness=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=24, max_size=24))
@settings(max_examples=5)
def test_any_fitness_leads_to_points_in_the_cube(
    name: StrategyName, fitness: list[float | None]
) -> None:
    strategy = _strategy(name, dimension=2)
    for start in range(0, len(fitness), GENERATION):
        assert _in_cube(strategy.ask(GENERATION), 2)
        strategy.tell(told(fitness[start : start + GENERATION]))
    assert _in_cube(strategy.ask(GENERATION), 2)


@endless
def test_equal_fitness_everywhere_does_not_stop_it(name: StrategyName) -> None:
    def judge(points: Sequence[Point]) -> list[float | None]:
        return [0.5] * len(points)

    assert _in_cube(_play(_strategy(name), [GENERATION] * 6, judge), 5)


@every_strategy
def test_points_may_be_asked_for_while_others_are_under_way(name: StrategyName) -> None:
    strategy, waiting = _strategy(name), []
    for _ in range(40):
        waiting += strategy.ask(1)
        if len(waiting) > 3:
            strategy.tell(told(_fitness([waiting.pop(0)])))
    strategy.tell(told(_fitness(waiting)))
    assert _in_cube(strategy.ask(GENERATION), 5)


@pytest.mark.parametrize("name", [each for each in of_points if each not in ("random", "Sobol")])
def test_telling_more_than_was_asked_for_is_a_programming_error(name: StrategyName) -> None:
    strategy = _strategy(name)
    strategy.ask(1)
    with pytest.raises(IndexError):
        strategy.tell(told([0.1, 0.2]))


def test_every_name_in_recipes_is_a_strategy() -> None:
    assert set(STRATEGIES) == set(get_args(StrategyName))


@every_strategy
def test_a_generation_that_is_cut_short_asks_for_the_same_points_as_a_whole_one(
    name: StrategyName,
) -> None:
    # Or a search that is given more candidates would not repeat its last generation.
    whole, cut = _strategy(name), _strategy(name)
    for strategy in (whole, cut):
        _play(strategy, [GENERATION] * 4)
    assert cut.ask(3) == whole.ask(GENERATION)[:3]
