"""Promise: textbook differential evolution on models, generation by generation."""

from __future__ import annotations

import pytest

from evomerge.search.contract import Breeding, Result, StrategySettings
from evomerge.search.evolver_de import EvolverDE

SOURCES = 5


def de(sources: int = SOURCES, seed: int = 7) -> EvolverDE:
    return EvolverDE(StrategySettings(dimension=4, generation=4, seed=seed, sources=sources))


def tell(strategy: EvolverDE, *fitness: float | None) -> None:
    strategy.tell([Result(fitness=each) for each in fitness])


def begun() -> EvolverDE:
    """Its sources have been scored."""
    strategy = de()
    assert strategy.ask(SOURCES) == [0, 1, 2, 3, 4]
    tell(strategy, 0.1, 0.2, 0.3, 0.4, 0.5)
    return strategy


def test_a_trial_is_made_of_its_target_and_three_others() -> None:
    trials = begun().ask(SOURCES)
    for place, trial in enumerate(trials):
        assert isinstance(trial, Breeding)
        assert (trial.operator, trial.parents[0]) == ("de_rand_1", place)
        assert len(set(trial.parents)) == 4
        assert trial.parameters == {"mutation": 0.5, "crossover": 0.5}


def test_a_generation_is_bred_from_the_one_before_it_however_it_is_asked_for() -> None:
    whole, bit_by_bit = begun(), begun()
    trials = whole.ask(SOURCES)
    for trial in trials:
        assert bit_by_bit.ask(1) == [trial]
        tell(bit_by_bit, 0.9)
    tell(whole, *[0.9] * SOURCES)
    assert whole.ask(SOURCES) == bit_by_bit.ask(SOURCES)


def test_it_waits_for_the_whole_generation() -> None:
    strategy = begun()
    assert len(strategy.ask(32)) == SOURCES
    tell(strategy, *[0.0] * (SOURCES - 1))
    assert strategy.ask(32) == []
    tell(strategy, 0.0)
    assert len(strategy.ask(32)) == SOURCES


def test_each_trial_competes_with_its_own_target() -> None:
    strategy = begun()
    strategy.ask(SOURCES)
    # The second is as good as its target, and the third is better than another's target only.
    tell(strategy, 0.15, 0.2, 0.25, None, 0.6)
    targets = [each.parents[0] for each in strategy.ask(SOURCES) if isinstance(each, Breeding)]
    # What was asked for has numbers from 5 on, the trials those from 10 on.
    assert targets == [10, 1, 2, 3, 14]


def test_three_sources_are_too_few() -> None:
    de(sources=4)
    with pytest.raises(ValueError, match="needs 4 sources, found 3"):
        de(sources=3)
