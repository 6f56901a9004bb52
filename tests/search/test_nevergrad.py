"""The adapter turns signs once, keeps the first step honest and tells failures last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evomerge.search import nevergrad
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.nevergrad import WORST_MARGIN, NevergradStrategy, default_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.recipe.search import StrategyName


@dataclass
class Candidate:
    """What a fake optimiser proposes."""

    number: int
    value: np.ndarray = field(default_factory=lambda: np.full(2, 0.5))


@dataclass
class FakeOptimizer:
    """Remembers what it is told, in the words of nevergrad: losses."""

    asked: int = 0
    told: list[tuple[int, float]] = field(default_factory=list)

    def ask(self) -> Candidate:
        self.asked += 1
        return Candidate(self.asked)

    def tell(self, candidate: Candidate, loss: float) -> None:
        self.told.append((candidate.number, loss))


@pytest.fixture
def optimizer(monkeypatch: pytest.MonkeyPatch) -> FakeOptimizer:
    fake = FakeOptimizer()
    monkeypatch.setattr(nevergrad, "_build", lambda *_: fake)
    monkeypatch.setattr(nevergrad, "_try_out", lambda _: None)
    return fake


def _tell(generations: Sequence[list[float | None]]) -> None:
    strategy = NevergradStrategy("CMA", StrategySettings(dimension=2, generation=3, seed=0))
    for fitness in generations:
        strategy.ask(len(fitness))
        strategy.tell([Result(fitness=value) for value in fitness])


def test_fitness_is_told_as_a_loss(optimizer: FakeOptimizer) -> None:
    _tell([[0.5, -2.0]])
    assert optimizer.told == [(1, -0.5), (2, 2.0)]


@pytest.mark.parametrize("worst", [0.6, 0.0, -40.0])
def test_a_failed_point_is_told_a_little_worse_than_the_worst(
    optimizer: FakeOptimizer, worst: float
) -> None:
    _tell([[worst + 0.1, None, worst]])
    assert dict(optimizer.told)[2] == -worst + WORST_MARGIN


def test_the_worst_is_remembered_from_earlier_generations(optimizer: FakeOptimizer) -> None:
    _tell([[-40.0, -3.0], [-5.0, None]])
    assert dict(optimizer.told)[4] == 40 + WORST_MARGIN


def test_while_everything_fails_nothing_is_told(optimizer: FakeOptimizer) -> None:
    _tell([[None, None], [None]])
    assert optimizer.told == []


def test_failures_are_told_as_soon_as_something_is_known(optimizer: FakeOptimizer) -> None:
    _tell([[None, None], [-20.0, None], [-21.0]])
    failed = 20 + WORST_MARGIN
    assert sorted(optimizer.told) == [(1, failed), (2, failed), (3, 20), (4, failed), (5, 21)]


@pytest.mark.parametrize(("dimension", "step"), [(1, 0.14), (20, 0.14), (100, 0.14), (101, 0.05)])
def test_the_first_step_shrinks_with_the_dimension(dimension: int, step: float) -> None:
    assert default_step(dimension) == step


def _first_points(name: StrategyName, dimension: int, step: float | None) -> np.ndarray:
    points: list[Any] = []
    for seed in range(15):
        settings = StrategySettings(dimension=dimension, generation=16, seed=seed, step=step)
        points += NevergradStrategy(name, settings).ask(16)
    return np.array(points)


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
@pytest.mark.parametrize("dimension", [9, 17, 18, 24])
@pytest.mark.parametrize("step", [0.1, 0.2])
def test_the_real_standard_deviation_of_the_first_points_is_the_step(
    name: StrategyName, dimension: int, step: float
) -> None:
    points = _first_points(name, dimension, step)
    assert points.std(axis=0).mean() == pytest.approx(step, rel=0.15)
    assert points.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
@pytest.mark.parametrize(("generation", "mirrored"), [(4, 1), (16, 3)])
def test_about_a_sixth_of_a_generation_mirrors_bad_points_of_the_last_one(
    name: StrategyName, generation: int, mirrored: int
) -> None:
    settings = StrategySettings(dimension=9, generation=generation, seed=0)
    strategy = NevergradStrategy(name, settings)
    assert strategy._optimizer.es.sp.lam_mirr == mirrored


@pytest.mark.parametrize("dimension", [9, 24])
def test_without_a_step_the_default_of_the_dimension_is_taken(dimension: int) -> None:
    explicit = _first_points("CMA", dimension, default_step(dimension))
    assert np.array_equal(_first_points("CMA", dimension, None), explicit)


def test_a_name_that_is_not_allowed_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="NGOpt is not in the allow-list"):
        nevergrad._build("NGOpt", StrategySettings(dimension=2, generation=4, seed=0))
