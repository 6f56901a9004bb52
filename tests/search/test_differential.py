"""Differential evolution mixes members as the paper says and replaces greedily."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.differential import (
    SMALLEST,
    DErand1,
    Population,
    binomial,
    rand_1,
    repair,
)


def _settings(generation: int = 8, dimension: int = 3) -> StrategySettings:
    return StrategySettings(dimension=dimension, generation=generation, seed=0)


def _population(fitness: list[float]) -> Population:
    """A population whose first round is over."""
    population = Population(_settings(), np.random.default_rng(0))
    for value in fitness:
        target, trial = population.next_target()
        assert trial is not None
        population.compete(target, trial, value)
    return population


KNOWN = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def test_a_mutant_is_a_member_and_half_the_difference_of_two_others() -> None:
    base, first, second = np.array([[0.2, 0.5], [0.9, 0.1], [0.3, 0.3]])
    assert rand_1(base, first, second, 0.5).tolist() == pytest.approx([0.5, 0.4])


def test_what_leaves_the_cube_is_put_halfway_between_parent_and_bound() -> None:
    mutant, parent = np.array([-0.3, 1.2, 0.7, 0.0, 1.0]), np.array([0.4, 0.4, 0.4, 0.4, 0.4])
    assert repair(mutant, parent).tolist() == pytest.approx([0.2, 0.7, 0.7, 0.0, 1.0])


@pytest.mark.parametrize(("rate", "taken"), [(0.0, 1), (1.0, 6)])
def test_a_crossover_rate_of_nothing_takes_one_coordinate_and_of_one_takes_all(
    rate: float, taken: int
) -> None:
    trial = binomial(np.zeros(6), np.ones(6), rate, np.random.default_rng(0))
    assert trial.sum() == taken


def test_the_mutants_share_of_coordinates_is_the_crossover_rate() -> None:
    trial = binomial(np.zeros(10_000), np.ones(10_000), 0.3, np.random.default_rng(0))
    assert trial.mean() == pytest.approx(0.3, abs=0.02)


def test_a_population_is_as_large_as_a_generation_but_not_tiny() -> None:
    sizes = [len(Population(_settings(g), np.random.default_rng(0))) for g in (1, 8, 20)]
    assert sizes == [SMALLEST, SMALLEST, 20]


def test_members_take_turns() -> None:
    population = _population(KNOWN)
    assert [population.next_target() for _ in range(10)] == [(i % 8, None) for i in range(10)]


@pytest.mark.parametrize(("fitness", "replaced"), [(0.29, False), (0.3, True), (0.31, True)])
def test_a_trial_replaces_its_target_if_it_is_not_worse(fitness: float, replaced: bool) -> None:
    population = _population(KNOWN)
    trial = np.full(3, 0.25)
    gain = population.compete(2, trial, fitness)
    assert gain == pytest.approx(fitness - 0.3)
    assert (population.points[2] == trial).all() == replaced
    assert population.fitness[2] == max(fitness, 0.3)


def test_a_member_that_failed_is_replaced_by_a_random_point() -> None:
    population = _population(KNOWN[:7])
    target, trial = population.next_target()
    assert (target, trial is None) == (7, False)  # The last of the first round, which fails.
    for _ in range(7):
        assert population.next_target()[1] is None
    target, trial = population.next_target()
    assert target == 7
    assert trial is not None
    assert trial.tolist() != population.points[7].tolist()


@given(target=st.integers(0, 7), seed=st.integers(0, 99))
def test_the_others_are_distinct_and_not_the_target(target: int, seed: int) -> None:
    population = _population(KNOWN)
    population._rng = np.random.default_rng(seed)
    assert len({target, *population.others(target, 3)}) == 4


def test_a_trial_competes_with_its_own_target_whatever_was_asked_in_between() -> None:
    strategy = DErand1(_settings())
    strategy.ask(8)
    strategy.tell([Result(fitness=value) for value in KNOWN])
    trials = strategy.ask(8)
    strategy.tell([Result(fitness=0.9), Result(fitness=0.0), Result(fitness=None)])
    strategy.ask(3)
    strategy.tell([Result(fitness=0.95)])
    members = strategy._population
    assert members.fitness.tolist() == [0.9, 0.2, 0.3, 0.95, 0.5, 0.6, 0.7, 0.8]
    assert tuple(members.points[0]) == trials[0]
    assert tuple(members.points[3]) == trials[3]


@given(
    fitness=st.lists(st.none() | st.floats(-10, 10), min_size=20, max_size=60),
    batch=st.integers(1, 11),
)
def test_no_member_ever_gets_worse(fitness: list[float | None], batch: int) -> None:
    strategy = DErand1(_settings())
    before = strategy._population.fitness.copy()
    for start in range(0, len(fitness), batch):
        results = [Result(fitness=value) for value in fitness[start : start + batch]]
        assert len(strategy.ask(len(results))) == len(results)
        strategy.tell(results)
        after = strategy._population.fitness.copy()
        assert (after >= before).all()
        before = after
