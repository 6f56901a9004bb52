"""SHADE learns F and CR from what succeeded, by the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.shade import MEMORY, SHADE, Memory, Success, current_to_pbest_1, lehmer_mean

FIRST = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def _shade() -> SHADE:
    """A population of eight whose first points are known."""
    strategy = SHADE(StrategySettings(dimension=3, generation=8, seed=0))
    strategy.ask(8)
    strategy.tell([Result(fitness=value) for value in FIRST])
    return strategy


def test_a_mutant_goes_towards_one_of_the_best_and_along_a_difference() -> None:
    parent, best, first, second = np.array([[0.2, 0.6], [0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    mutant = current_to_pbest_1(parent, best, first, second, 0.5)
    assert mutant.tolist() == pytest.approx([0.2 + 0.3 + 0.2, 0.6 - 0.2 - 0.2])


def test_the_lehmer_mean_leans_to_the_greater_values() -> None:
    # (1/4 * 0.04 + 3/4 * 0.36) / (1/4 * 0.2 + 3/4 * 0.6) = 0.28 / 0.5
    assert lehmer_mean(np.array([0.2, 0.6]), np.array([0.25, 0.75])) == pytest.approx(0.56)


def test_the_memory_starts_in_the_middle() -> None:
    assert (Memory().factors, Memory().rates) == ([0.5] * MEMORY, [0.5] * MEMORY)


def test_successes_are_weighed_by_their_gains() -> None:
    memory = Memory()
    memory.learn([Success(0.2, 0.9, 0.01), Success(0.6, 0.1, 0.03)])
    assert memory.factors == pytest.approx([0.56] + [0.5] * (MEMORY - 1))
    # 1/4 * 0.9 + 3/4 * 0.1
    assert memory.rates == pytest.approx([0.3] + [0.5] * (MEMORY - 1))


def test_the_memory_is_a_ring() -> None:
    memory = Memory()
    for number in range(MEMORY + 1):
        memory.learn([Success(0.1 + number / 10, 0.2, 1.0)])
    assert memory.factors[:2] == pytest.approx([0.1 + MEMORY / 10, 0.2])


def test_without_successes_nothing_is_learnt() -> None:
    memory = Memory()
    memory.learn([])
    memory.learn([Success(0.7, 0.7, 1.0)])
    assert memory.factors[0] == pytest.approx(0.7)


@given(seed=st.integers(0, 999))
def test_parameters_that_are_drawn_are_in_their_ranges(seed: int) -> None:
    memory = Memory()
    memory.factors, memory.rates = [0.01] * MEMORY, [0.99] * MEMORY
    factor, rate = memory.draw(np.random.default_rng(seed))
    assert 0 < factor <= 1
    assert 0 <= rate <= 1


def test_parameters_are_drawn_near_the_memory() -> None:
    memory, rng = Memory(), np.random.default_rng(0)
    memory.factors, memory.rates = [0.4] * MEMORY, [0.7] * MEMORY
    drawn = np.array([memory.draw(rng) for _ in range(2000)])
    assert np.median(drawn, axis=0).tolist() == pytest.approx([0.4, 0.7], abs=0.02)
    # A quarter of a Cauchy distribution lies above median + scale, and 1/2 - atan(4)/pi of it
    # below nothing, which is drawn again.
    assert (drawn[:, 0] > 0.5).mean() == pytest.approx(0.25 / (1 - 0.078), abs=0.02)
    assert drawn[:, 1].std() == pytest.approx(0.1, abs=0.01)


def test_only_beaten_parents_are_archived() -> None:
    strategy = _shade()
    parents = [tuple(point) for point in strategy._population.points]
    strategy.ask(3)
    strategy.tell([Result(fitness=0.15), Result(fitness=0.2), Result(fitness=0.0)])
    assert [tuple(parent) for parent in strategy._archive] == [parents[0]]


def test_a_tie_replaces_its_target() -> None:
    strategy = _shade()
    (trial,) = strategy.ask(1)
    strategy.tell([Result(fitness=0.1)])
    assert tuple(strategy._population.points[0]) == trial
    assert strategy._archive == []


def test_the_archive_holds_no_more_than_the_population() -> None:
    strategy = _shade()
    for generation in range(4):
        strategy.ask(8)
        strategy.tell([Result(fitness=1.0 + generation)] * 8)
    assert len(strategy._archive) == 8


def test_the_memory_is_written_once_a_generation_however_results_come_in() -> None:
    strategy = _shade()
    strategy.ask(8)
    strategy.tell([Result(fitness=1.0)] * 3)
    strategy.tell([Result(fitness=None)] * 4)
    assert strategy._memory.factors == [0.5] * MEMORY
    strategy.tell([Result(fitness=None)])
    changed = [factor != 0.5 for factor in strategy._memory.factors]
    assert changed == [True] + [False] * (MEMORY - 1)


@pytest.mark.parametrize(("members", "drawn"), [(8, {6, 7}), (20, {16, 17, 18, 19})])
def test_trials_are_drawn_to_the_best_fifth_and_to_two_at_least(
    members: int, drawn: set[int]
) -> None:
    strategy = SHADE(StrategySettings(dimension=3, generation=members, seed=0))
    strategy.ask(members)
    strategy.tell([Result(fitness=float(value)) for value in range(members)])
    assert {strategy._one_of_the_best() for _ in range(200)} == drawn


def test_the_second_of_a_difference_may_come_from_the_archive() -> None:
    strategy = _shade()
    strategy._archive = [np.full(3, 9.0)]
    seconds = {tuple(strategy._second(0, 1)) for _ in range(200)}
    members = {tuple(point) for point in strategy._population.points[2:]}
    assert seconds == {*members, (9.0, 9.0, 9.0)}


@given(
    fitness=st.lists(st.none() | st.floats(-10, 10), min_size=20, max_size=50),
    ahead=st.integers(1, 11),
)
def test_no_member_ever_gets_worse_and_the_best_of_all_that_was_told_stays(
    fitness: list[float | None], ahead: int
) -> None:
    strategy = SHADE(StrategySettings(dimension=3, generation=8, seed=0))
    strategy.ask(ahead)
    before = strategy._population.fitness.copy()
    for told, value in enumerate(fitness, start=1):
        strategy.ask(1)
        strategy.tell([Result(fitness=value)])
        after = strategy._population.fitness.copy()
        assert (after >= before).all()
        assert after.max() == max((f for f in fitness[:told] if f is not None), default=-np.inf)
        before = after
