"""An optimiser that another version of its package has broken stops a search before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evomerge.errors import VersionError
from evomerge.search import nevergrad
from evomerge.search.contract import StrategySettings
from evomerge.search.nevergrad import ALLOWED, NevergradStrategy
from evomerge.search.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Callable

DIMENSION = 2


@dataclass
class Candidate:
    value: np.ndarray


@dataclass
class Walker:
    """Proposes what it is built with, and halves the way to 0.2 with every generation.

    Attributes:
        change: What becomes of each point that it would propose.
        asked: How many it has proposed.
    """

    change: Callable[[np.ndarray], np.ndarray] = lambda point: point
    asked: int = 0
    told: list[float] = field(default_factory=list)

    def ask(self) -> Candidate:
        self.asked += 1
        point = np.full(DIMENSION, 0.2 + 0.3 * 0.5 ** (self.asked // 8))
        return Candidate(self.change(point))

    def tell(self, candidate: Candidate, loss: float) -> None:
        self.told.append(loss)


def fails(_: np.ndarray) -> np.ndarray:
    raise TypeError("only 0-dimensional arrays\ncan be converted")


def _try(build: Callable[[], Any]) -> None:
    try_out("CMA", "nevergrad", build, DIMENSION)


def test_an_optimiser_that_works_may_be_used() -> None:
    walkers: list[Walker] = []

    def build() -> Walker:
        walkers.append(Walker())
        return walkers[-1]

    _try(build)
    assert [len(walker.told) for walker in walkers] == [40, 40]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (fails, "raises TypeError: only 0-dimensional arrays can be converted"),
        (lambda point: point[:1], r"proposes points of shape \(1,\) instead of \(2,\)"),
        (lambda point: point * np.nan, "proposes NaN or infinity"),
        (lambda point: point + 0.75, "proposes 1.25, outside"),
        (lambda point: point - 0.75, "proposes -0.2[0-9.]*, outside"),
        (lambda point: 0.4 * point / point, "finds nothing better in 5 generations"),
    ],
    ids=["fails", "shape", "nan", "above", "below", "stays"],
)
def test_one_that_does_not_is_refused_in_one_line(
    change: Callable[[np.ndarray], np.ndarray], problem: str
) -> None:
    with pytest.raises(VersionError, match=rf"^nevergrad [\d.]+: its CMA {problem}") as raised:
        _try(lambda: Walker(change))
    assert "\n" not in str(raised.value)
    assert "install the versions of constraints.txt" in str(raised.value)


def test_one_that_cannot_be_built_is_refused() -> None:
    def build() -> Walker:
        raise KeyError("CMA_mirrors")

    with pytest.raises(VersionError, match="its CMA raises KeyError: 'CMA_mirrors'"):
        _try(build)


def test_one_that_does_not_repeat_itself_is_refused() -> None:
    shifts = iter([0.0, 0.01])

    def build() -> Walker:
        shift = next(shifts)
        return Walker(lambda point: point + shift)

    with pytest.raises(VersionError, match="proposes other points with the same seed"):
        _try(build)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_search_tries_out_its_optimiser_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(nevergrad, "try_out", lambda *given: tried.append(given[0]))
    nevergrad._try_out.cache_clear()
    for _ in range(2):
        NevergradStrategy(name, StrategySettings(dimension=3, generation=4, seed=0))
    nevergrad._try_out.cache_clear()
    assert tried == [name]
