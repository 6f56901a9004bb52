"""The genetic algorithm keeps the best, repeats no point and adapts its step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.genome.genes import DECIMALS, Gene
from evomerge.search import genetic
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.genetic import (
    COLLAPSED,
    GA,
    GREATEST_STEP,
    HURRY,
    IMMIGRANTS,
    SMALLEST,
    SMALLEST_STEP,
    STEP,
    Member,
    adapt,
    mutate,
    tournament,
)
from evomerge.search.strategies import build_strategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName

SIZE = SMALLEST


def _ga(dimension: int = 3, generation: int = 8) -> GA:
    return GA(StrategySettings(dimension=dimension, generation=generation, seed=0))


def _founded(dimension: int = 3) -> GA:
    """A population of which the members are known, with fitness 0, 1, 2 ..."""
    strategy = _ga(dimension)
    strategy.ask(SIZE)
    strategy.tell([Result(fitness=float(value)) for value in range(SIZE)])
    return strategy


def _fitness(strategy: GA) -> list[float]:
    return sorted(member.fitness for member in strategy._population)


@given(
    fitness=st.lists(st.none() | st.floats(-10, 10), min_size=30, max_size=80),
    batch=st.integers(1, 11),
)
def test_the_best_and_every_other_rank_never_get_worse(
    fitness: list[float | None], batch: int
) -> None:
    strategy, before = _ga(), list[float]()
    for start in range(0, len(fitness), batch):
        results = [Result(fitness=value) for value in fitness[start : start + batch]]
        strategy.ask(len(results))
        strategy.tell(results)
        after = _fitness(strategy)
        known = [value for value in fitness[: start + len(results)] if value is not None]
        assert after == sorted(known)[-SIZE:]
        assert all(new >= old for new, old in zip(after[::-1], before[::-1], strict=False))
        before = after


def test_the_worst_one_leaves() -> None:
    strategy = _founded()
    strategy.ask(2)
    strategy.tell([Result(fitness=3.5), Result(fitness=-1.0)])
    assert _fitness(strategy) == sorted([*range(1, SIZE), 3.5])


def test_of_equals_the_oldest_leaves() -> None:
    strategy = _ga()
    first, *_ = strategy.ask(SIZE)
    (newest,) = strategy.ask(1)
    strategy.tell([Result(fitness=0.5)] * (SIZE + 1))
    members = [tuple(member.point) for member in strategy._population]
    assert first not in members
    assert newest in members


def test_a_failed_point_does_not_join() -> None:
    strategy = _founded()
    strategy.ask(3)
    strategy.tell([Result(fitness=None)] * 3)
    assert _fitness(strategy) == list(range(SIZE))


@pytest.mark.parametrize("dimension", [1, 4])
def test_no_point_is_asked_twice(dimension: int) -> None:
    settings = StrategySettings(dimension=dimension, generation=8, seed=0, step=0.5)
    strategy, points = GA(settings), []
    for _ in range(60):
        asked = strategy.ask(8)
        # A corner is best: many points are cut off there.
        strategy.tell([Result(fitness=sum(point)) for point in asked])
        points += [tuple(np.round(point, DECIMALS)) for point in asked]
    assert len(set(points)) == len(points)


def test_a_parent_is_the_best_of_those_drawn() -> None:
    members = [Member(np.zeros(1), float(value)) for value in range(10)]
    rng = np.random.default_rng(0)
    chosen = [tournament(members, rng).fitness for _ in range(4000)]
    # The mean of the greatest of three draws from 0..9.
    expected = sum(k * ((k + 1) ** 3 - k**3) for k in range(10)) / 1000
    assert np.mean(chosen) == pytest.approx(expected, abs=0.1)


def test_a_mutation_changes_one_gene_at_least() -> None:
    point = np.full(5, 0.5)
    changed = mutate(point, 0.1, 0.0, np.random.default_rng(0)) != point
    assert changed.sum() == 1


def test_a_mutation_changes_a_share_of_the_genes_by_the_step() -> None:
    point = np.full(10_000, 0.5)
    change = mutate(point, 0.1, 0.3, np.random.default_rng(0)) - point
    assert (change != 0).mean() == pytest.approx(0.3, abs=0.02)
    assert change[change != 0].std() == pytest.approx(0.1, abs=0.005)


def test_a_mutated_choice_is_drawn_anew_and_not_moved() -> None:
    point, choices = np.full(10_000, 0.1), np.arange(10_000) % 2 == 0
    mutant = mutate(point, 0.01, 1.0, np.random.default_rng(0), choices=choices)
    shares = np.histogram(mutant[choices], bins=4, range=(0, 1))[0] / 5000
    assert shares == pytest.approx(0.25, abs=0.02)
    assert np.abs(mutant - point)[~choices].max() < 0.05


def _scaled(*scales: float) -> GA:
    return GA(StrategySettings(dimension=2, generation=8, seed=0, scales=scales))


def test_each_gene_moves_by_the_step_times_its_scale() -> None:
    strategy, point = _scaled(0.2, 1.0), np.full(2, 0.5)
    moved = np.array([strategy._mutated(point) for _ in range(4000)]) - point
    deviations = [gene[gene != 0].std() for gene in moved.T]
    assert deviations == pytest.approx([0.2 * STEP, STEP], rel=0.05)


@pytest.mark.parametrize(("name", "on_the_wall"), [("GA", 0.5), ("GAPolynomial", 0.0)])
def test_mutations_are_gaussian_or_heed_the_walls(name: StrategyName, on_the_wall: float) -> None:
    strategy = build_strategy(name, StrategySettings(dimension=2, generation=8, seed=0))
    assert isinstance(strategy, GA)
    mutants = np.array([strategy._mutated(np.full(2, 0.999)) for _ in range(1000)])
    assert (mutants == 1).mean() == pytest.approx(on_the_wall, abs=0.05)


def test_scales_of_one_are_no_scales_at_all() -> None:
    plain, scaled = _scaled(), _scaled(1.0, 1.0)
    for strategy in (plain, scaled):
        strategy.ask(SIZE)
        strategy.tell([Result(fitness=float(value)) for value in range(SIZE)])
    assert plain.ask(40) == scaled.ask(40)


def test_an_offspring_of_many_parents_makes_the_choice_of_one() -> None:
    genes = (
        Gene(parameter="operator", source=None, group=None, component="all", choices=("a", "b")),
        Gene(parameter="weight", source=0, group=0, component=None),
    )
    settings = StrategySettings(dimension=2, generation=8, seed=0, genes=genes)
    strategy = GA(settings)
    founders = strategy.ask(SIZE)
    strategy.tell([Result(fitness=point[1]) for point in founders])
    choices = {point[0] for point in founders}
    assert {float(strategy._recombine().point[0]) for _ in range(50)} <= choices


def test_a_mutation_stays_in_the_cube() -> None:
    point = mutate(np.full(100, 0.9), 1.0, 1.0, np.random.default_rng(0))
    assert (point.min(), point.max()) == (0, 1)


def test_one_success_in_five_leaves_the_step_as_it_is() -> None:
    step = 0.1
    for success in (False, True, False, False, False):
        step = adapt(step, success=success)
    assert step == pytest.approx(0.1)


def test_a_success_lengthens_the_step_and_a_failure_shortens_it() -> None:
    assert adapt(0.1, success=True) == pytest.approx(0.1 * math.exp(0.8 * HURRY))
    assert adapt(0.1, success=False) == pytest.approx(0.1 * math.exp(-0.2 * HURRY))


def test_the_step_stays_between_its_bounds() -> None:
    assert adapt(GREATEST_STEP, success=True) == GREATEST_STEP
    assert adapt(SMALLEST_STEP, success=False) == SMALLEST_STEP


def _breeding(monkeypatch: pytest.MonkeyPatch) -> GA:
    """No means and no immigrants: every offspring has two parents."""
    monkeypatch.setattr(genetic, "INTERMEDIATE", 0.0)
    monkeypatch.setattr(genetic, "IMMIGRANTS", 0.0)
    return _founded()


@pytest.mark.parametrize(("gain", "success"), [(0.5, True), (0.0, False), (-0.5, False)])
def test_the_step_follows_whether_offspring_beat_both_parents(
    monkeypatch: pytest.MonkeyPatch, *, gain: float, success: bool
) -> None:
    strategy = _breeding(monkeypatch)
    strategy.ask(1)
    bar = strategy._asked[0].bar
    assert bar is not None
    strategy.tell([Result(fitness=bar + gain)])
    assert strategy._step == pytest.approx(adapt(STEP, success=success))


def test_founders_and_failures_leave_the_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = _breeding(monkeypatch)
    strategy.ask(1)
    strategy.tell([Result(fitness=None)])
    assert strategy._step == STEP


def test_a_mean_of_many_lies_among_the_better_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genetic, "INTERMEDIATE", 1.0)
    monkeypatch.setattr(genetic, "IMMIGRANTS", 0.0)
    strategy = _founded(dimension=1)
    for index, member in enumerate(strategy._population):
        member.point[:] = index / SIZE
    points = np.array(strategy.ask(400))
    # Of three draws the best is three quarters up; clipping at 1 takes a little off.
    assert points.mean() == pytest.approx(0.7, abs=0.05)


def test_a_few_points_come_from_all_over_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = _founded(dimension=2)
    for member in strategy._population:
        member.point[:] = 0.5 + 0.05 * (member.point - 0.5)
    monkeypatch.setattr(genetic, "STEP", 0.01)
    strategy._step = 0.01
    points = np.array(strategy.ask(2000))
    far = (abs(points - 0.5) > 0.2).any(axis=1).mean()
    assert far == pytest.approx(IMMIGRANTS * (1 - 0.4**2), abs=0.01)


def test_a_collapsed_population_starts_again_around_its_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strategy = _breeding(monkeypatch)
    strategy._step = SMALLEST_STEP
    for member in strategy._population:
        member.point[:] = 0.5 + COLLAPSED * (member.point - 0.5)
    best = strategy.ask(1)
    strategy.tell([Result(fitness=99.0)])
    assert [tuple(member.point) for member in strategy._population] == best
    founders = np.array(strategy.ask(SIZE - 1))
    assert founders.std(axis=0) == pytest.approx(STEP, rel=0.5)
    assert founders.mean(axis=0) == pytest.approx(best[0], abs=0.15)
