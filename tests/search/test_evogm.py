"""Promise: losers become like winners, and elites can be combined as if they were models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.genome.genes import Gene
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.evogm import (
    ELITES,
    Basis,
    EvoGM,
    nothing_merged,
    split,
    turn,
)

GENERATION, DIMENSION = 8, 20


def shifted(low: float = 0.0, high: float = 1.0) -> tuple[EvoGM, np.ndarray]:
    """A search at its second round, and the points of its elites."""
    genes = tuple(
        Gene(parameter="weight", source=0, group=group, component=None, low=low, high=high)
        for group in range(DIMENSION)
    )
    settings = StrategySettings(
        dimension=DIMENSION, genes=genes, generation=GENERATION, seed=0, candidates=4 * GENERATION
    )
    strategy = EvoGM(settings)
    points = np.array(strategy.ask(2 * GENERATION))
    strategy.tell([Result(fitness=float(number)) for number in range(2 * GENERATION)])
    return strategy, points[::-1][:ELITES]


def test_a_combination_by_hand() -> None:
    basis = Basis(
        zero=np.array([0.0, 0.5, 0.2]),
        elements=np.array([[0.4, 0.5, 0.0], [0.8, 1.0, 0.8]]),
        low=-1.0,
    )
    point = basis.point(np.array([0.5, -0.25]))
    # 0.5 * 0.4 - 0.25 * 0.8; 0.5 - 0.25 * 0.5; 0.2 - 0.5 * 0.2 - 0.25 * 0.6, which is below 0.
    assert point.tolist() == pytest.approx([0.0, 0.375, 0.0])


def test_a_loser_is_turned_by_hand() -> None:
    losers = np.array([[0.0, 0.4], [2.0, 0.4]])
    winners = np.array([[1.0, 0.3], [1.5, 0.3]])
    # Losers differ by four times as much as winners; where neither do, nothing is scaled.
    # 1.25 - 0.5 * 1 and 1 + 2 * 0.25; 0.3 - 0.4 + 0.4 and back.
    assert turn(losers[0], losers, winners).tolist() == pytest.approx([0.75, 0.3])
    assert turn(winners[1], winners, losers).tolist() == pytest.approx([1.5, 0.4])


@given(st.lists(st.floats(-1, 1), min_size=10, max_size=10))
def test_a_loser_turned_to_and_fro_is_itself(values: list[float]) -> None:
    losers, winners = np.split(np.array(values).reshape(5, 2), [3])
    turned = turn(losers, losers, winners)
    assert turn(turned, winners, losers) == pytest.approx(losers, abs=1e-9)


def test_no_other_maps_that_undo_each_other_come_nearer_to_the_means() -> None:
    rng = np.random.default_rng(0)
    losers, winners = rng.normal(0, 3, (20, 1)), rng.normal(1, 0.5, (9, 1))
    won, lost = turn(losers, losers, winners), turn(winners, winners, losers)

    def loss(factor: float) -> float:
        """Of maps whose distances are so many times those of ours."""
        return float((factor * won).var(ddof=1) + (lost / factor).var(ddof=1))

    assert won.mean() == pytest.approx(winners.mean())
    assert lost.mean() == pytest.approx(losers.mean())
    assert loss(1.0) < min(loss(factor) for factor in (0.5, 0.99, 1.01, 2.0))


def test_three_in_ten_win_and_of_equals_the_older() -> None:
    fitness = np.array([0.1, 0.5, 0.2, 0.5, 0.3, 0.5, 0.5, 0.0, 0.0, 0.0])
    losers, winners = split(np.arange(10.0)[:, None], fitness)
    assert winners.ravel().tolist() == [1, 3, 5]
    assert losers.ravel().tolist() == [6, 4, 2, 0, 7, 8, 9]


def test_nothing_is_merged_where_weights_are_zero_or_as_low_as_they_can_be() -> None:
    ranges = [("weight", -0.5, 1.5), ("weight", 0.2, 1.0), ("weight", -2, -1), ("density", 0.1, 1)]
    genes = [
        Gene(parameter=name, source=0, group=0, component=None, low=low, high=high)
        for name, low, high in ranges
    ]
    assert nothing_merged(genes, 4).tolist() == [0.25, 0.0, 1.0, 0.5]
    assert nothing_merged([], 3).tolist() == [0.0, 0.0, 0.0]


def test_the_second_round_asks_for_combinations_of_the_elites() -> None:
    strategy, elites = shifted(low=-0.25, high=0.75)
    zero = np.full(DIMENSION, 0.25)
    points = np.array(strategy.ask(GENERATION))
    coefficients = [asked for _, asked in strategy._asked]
    expected = np.clip(zero + np.array(coefficients) @ (elites - zero), 0, 1)
    assert points == pytest.approx(expected)
    assert np.abs(coefficients).max() <= 1


def test_in_weights_the_combination_is_that_of_the_elites_weights() -> None:
    """So it is one of their models, for an operator that is linear in its weights."""
    low, high = -0.25, 0.75
    strategy, elites = shifted(low, high)
    weights = low + (high - low) * np.array(strategy.ask(GENERATION))
    coefficients = np.array([asked for _, asked in strategy._asked])
    combined = coefficients @ (low + (high - low) * elites)
    assert weights == pytest.approx(np.clip(combined, low, high))


def test_an_elite_is_the_combination_of_itself_alone_and_need_not_be_asked_for_again() -> None:
    strategy, elites = shifted()
    assert [strategy._basis.point(each) for each in strategy._coefficients] == [
        pytest.approx(elite) for elite in elites
    ]
    assert strategy._fitness == [15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0]


def test_what_is_told_late_of_the_first_round_does_no_harm_in_the_second() -> None:
    settings = StrategySettings(dimension=5, generation=8, seed=0, candidates=32)
    strategy = EvoGM(settings)
    strategy.ask(24)
    strategy.tell([Result(fitness=0.5)] * 16)
    strategy.tell([Result(fitness=0.9)] * 8)
    assert len(strategy._fitness) == ELITES
    assert len(strategy.ask(8)) == 8


def test_there_is_no_second_round_before_there_are_enough_elites() -> None:
    strategy = EvoGM(StrategySettings(dimension=5, generation=8, seed=0, candidates=16))
    strategy.ask(16)
    strategy.tell([Result(fitness=None)] * 9 + [Result(fitness=0.1)] * 7)
    assert strategy._basis.low == 0
