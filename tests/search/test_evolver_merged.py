"""Promise: Evolver with a merger goes on with one child at a time that betters the merge."""

from __future__ import annotations

import math

import pytest
import torch
from bred_weights import Weights
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Breeding, Result, StrategySettings
from evomerge.search.evolver_merged import MERGES, MergedEvolver

SOURCES = 3
every_merge = pytest.mark.parametrize("name", MERGES)
fitnesses = st.lists(st.none() | st.floats(-10, 10), min_size=40, max_size=40)
Parents = tuple[int | Breeding, ...]


def merged(name: str, sources: int = SOURCES, seed: int = 7) -> MergedEvolver:
    settings = StrategySettings(dimension=4, generation=4, seed=seed, sources=sources)
    return MergedEvolver(MERGES[name], settings)


def told(*fitness: float | None) -> list[Result]:
    return [Result(fitness=each) for each in fitness]


def populations(strategy: MergedEvolver, count: int) -> list[Parents]:
    asked = strategy.ask(count)
    return [each.parents for each in asked if isinstance(each, Breeding)]


def changed(population: Parents, other: Parents) -> list[int]:
    """The places in which one population differs from another."""
    pairs = zip(population, other, strict=True)
    return [place for place, (one, two) in enumerate(pairs) if one is not two]


@pytest.mark.parametrize(
    ("name", "merge"),
    [
        ("EvolverMean", Breeding(operator="linear", parents=(0, 1, 2))),
        (
            "EvolverFisher",
            Breeding(operator="fisher", parents=(0, 1, 2), measured_as=(0, 1, 2)),
        ),
        (
            "EvolverRegMean",
            Breeding(operator="regmean", parents=(0, 1, 2), measured_as=(0, 1, 2)),
        ),
        (
            "EvolverTIES",
            Breeding(
                operator="ties", parents=(0, 1, 2), parameters={"weight": 1.0, "density": 0.2}
            ),
        ),
    ],
)
def test_the_merge_of_the_sources_comes_first_and_then_one_with_a_child(
    name: str, merge: Breeding
) -> None:
    strategy = merged(name)
    first, second = strategy.ask(2)
    assert first == merge
    assert isinstance(second, Breeding)
    assert (second.operator, second.parameters) == (merge.operator, merge.parameters)
    assert second.measured_as == merge.measured_as
    (place,) = changed(second.parents, merge.parents)
    child = second.parents[place]
    assert isinstance(child, Breeding)
    assert child.operator == "evolver"
    assert child.parents[0] == place != child.parents[1]
    assert child.parameters == {"mutation": 0.5, "crossover": 0.5}


def places_of(strategy: MergedEvolver, passes: int) -> list[tuple[int, ...]]:
    """Whose turn it was in each pass, of a search in which nothing gets better."""
    (whole,) = populations(strategy, 1)
    turns = [changed(each, whole) for each in populations(strategy, passes * len(whole))]
    flat = [place for (place,) in turns]
    return [tuple(flat[at : at + len(whole)]) for at in range(0, len(flat), len(whole))]


def test_every_pass_has_each_place_once_in_an_order_of_its_own() -> None:
    passes = places_of(merged("EvolverMean", sources=4), 12)
    assert all(sorted(each) == [0, 1, 2, 3] for each in passes)
    # Of 24 orders; some may come twice.
    assert len(set(passes)) >= 6


def test_the_order_of_places_follows_from_the_seed() -> None:
    first, again, other = (
        places_of(merged("EvolverMean", sources=4, seed=seed), 6) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_child_that_does_not_better_the_merge_is_forgotten() -> None:
    strategy = merged("EvolverMean")
    whole, _ = populations(strategy, 2)
    strategy.tell(told(0.5, 0.5))
    (third,) = populations(strategy, 1)
    assert len(changed(third, whole)) == 1


@every_merge
@given(fitness=fitnesses, at_a_time=st.integers(1, 7))
def test_what_is_varied_is_always_the_best_population_that_was_scored(
    name: str, fitness: list[float | None], at_a_time: int
) -> None:
    """So the best score never falls, and is the score of a merge that exists."""
    strategy = merged(name)
    best, score = tuple[int | Breeding, ...](range(SOURCES)), -math.inf
    for start in range(0, len(fitness), at_a_time):
        scores = fitness[start : start + at_a_time]
        asked = populations(strategy, len(scores))
        varied = asked[1:] if start == 0 else asked
        assert all(len(changed(each, best)) == 1 for each in varied)
        strategy.tell(told(*scores))
        for population, each in zip(asked, scores, strict=True):
            if each is not None and each > score:
                best, score = population, each


@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8]))
def test_a_child_moves_the_mean_by_its_own_move_over_the_number_of_sources(
    seed: int, count: int
) -> None:
    # Of such numbers every mean and midpoint is exact.
    drawn = torch.Generator().manual_seed(seed)
    weights = Weights(torch.randint(-64, 64, (count, 3, 5), generator=drawn).double())
    first, second = merged("EvolverMean", count, seed).ask(2)
    assert isinstance(first, Breeding)
    assert isinstance(second, Breeding)
    (place,) = changed(second.parents, first.parents)
    move = weights.of(second.parents[place]) - weights.of(place)
    assert torch.equal(weights.of(second) - weights.of(first), move / count)
