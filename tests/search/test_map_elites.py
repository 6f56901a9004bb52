"""Each task's archive keeps its best at every level of the other tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evomerge.search import map_elites
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.map_elites import (
    WARM_UP,
    Cell,
    CycleQD,
    archive,
    boundaries,
    cells,
    chances,
    coverage,
    crossover,
    elites_of,
    qd_score,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

qualities_in_cells = st.lists(
    st.tuples(st.floats(-10, 10), st.tuples(st.integers(0, 2), st.integers(0, 2))), min_size=1
)
score_tables = array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(-50, 50))
)


def _cells(column: Sequence[float], bins: int) -> list[Cell]:
    axis = np.array(column, dtype=float)[:, None]
    return cells(axis, boundaries(axis, bins))


def test_levels_are_parted_by_quantiles() -> None:
    axes = np.array([[0.0, 10], [1, 30], [2, 20], [3, 50], [4, 40]])
    bounds = boundaries(axes, 5)
    assert bounds == pytest.approx(np.array([[0.8, 18], [1.6, 26], [2.4, 34], [3.2, 42]]))
    assert cells(axes, bounds) == [(0, 0), (1, 2), (2, 1), (3, 4), (4, 3)]


def test_one_broken_candidate_does_not_press_the_others_into_one_cell() -> None:
    assert _cells([-1000.0, 0.5, 0.6, 0.7, 0.8], 5) == [(0,), (1,), (2,), (3,), (4,)]


def test_equal_scores_share_a_cell() -> None:
    assert _cells([0.5] * 4, 5) == [(0,)] * 4


@given(scores=score_tables, bins=st.integers(1, 6))
def test_cells_do_not_depend_on_the_scale_of_scores(scores: np.ndarray, bins: int) -> None:
    """Powers of two, so that no rounding is in the way."""
    scaled = 4 * scores - 64
    whole = cells(scores, boundaries(scores, bins))
    assert cells(scaled, boundaries(scaled, bins)) == whole
    assert all(0 <= level < bins for cell in whole for level in cell)


def test_a_cell_keeps_the_first_of_its_best() -> None:
    where = [(0,), (1,), (0,), (0,), (1,)]
    assert elites_of([0.2, 0.9, 0.5, 0.5, 0.1], where) == {(0,): 2, (1,): 1}


@given(found=qualities_in_cells)
def test_an_elite_never_gets_worse_and_coverage_never_falls(
    found: list[tuple[float, Cell]],
) -> None:
    known: dict[Cell, float] = {}
    for count in range(1, len(found) + 1):
        qualities, where = zip(*found[:count], strict=True)
        best = {cell: qualities[index] for cell, index in elites_of(qualities, where).items()}
        assert all(best[cell] >= quality for cell, quality in known.items())
        assert coverage(len(best), 3, 2) >= coverage(len(known), 3, 2)
        assert qd_score(best.values(), -10) >= qd_score(known.values(), -10) - 1e-9
        assert all(where[index] == cell for cell, index in elites_of(qualities, where).items())
        known = best


def test_the_other_tasks_are_the_axes_of_an_archive() -> None:
    """Task 0: rows 0 and 1 are below the median of task 1, rows 2 and 3 above."""
    scores = np.array([[0.3, 0.1], [0.4, 0.2], [0.2, 0.8], [0.1, 0.9]])
    assert archive(scores, 0, 2) == {(0,): 1, (1,): 2}
    assert archive(scores, 1, 2) == {(1,): 1, (0,): 3}


def test_with_one_task_there_is_one_elite() -> None:
    assert archive(np.array([[0.1], [0.7], [0.4]]), 0, 5) == {(): 1}


def test_coverage_is_a_share_of_all_cells() -> None:
    assert coverage(5, bins=5, axes=2) == 0.2
    assert coverage(1, bins=5, axes=0) == 1


def test_the_qd_score_sums_what_elites_are_better_than_the_worst() -> None:
    assert qd_score([0.5, 0.75], worst=0.25) == 0.75


def test_chances_multiply_over_tasks() -> None:
    assert chances(np.array([[0.0, 0], [1, 1]])) == pytest.approx([0.25 / 0.89, 0.64 / 0.89])
    assert chances(np.array([[0.0, 7], [3, 1]])) == pytest.approx([0.5, 0.5])


def test_equal_elites_have_equal_chances() -> None:
    assert chances(np.full((4, 3), 0.3)) == pytest.approx([0.25] * 4)


def test_parents_are_mixed_with_shares_that_sum_to_one() -> None:
    child = crossover(np.array([[1.0, 0, 1], [0, 1, 1]]), np.array([1.02, 0.98]))
    assert child == pytest.approx([0.51, 0.49, 1.0])


def _after(scores: Sequence[tuple[float, ...]]) -> tuple[CycleQD, list[tuple[float, ...]]]:
    """A strategy that has drawn its random points, and the points that have these scores."""
    strategy = CycleQD(StrategySettings(dimension=3, generation=8, seed=0))
    points = strategy.ask(len(scores))
    strategy.tell([Result(fitness=sum(each), scores=each) for each in scores])
    strategy.ask(WARM_UP)
    strategy.tell([Result(fitness=None)] * WARM_UP)
    return strategy, points


def _unmutated(monkeypatch: pytest.MonkeyPatch, bins: int) -> None:
    monkeypatch.setattr(map_elites, "MUTATION", 0.0)
    monkeypatch.setattr(map_elites, "BINS", bins)


def test_the_tasks_take_turns_point_by_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one level each archive is its task's best, and that is both parents."""
    _unmutated(monkeypatch, bins=1)
    strategy, points = _after([(0.9, 0.1, 0.1), (0.5, 0.5, 0.5), (0.1, 0.9, 0.2), (0.1, 0.1, 0.9)])
    best = [points[0], points[2], points[3]]
    children = strategy.ask(4) + strategy.ask(2)
    turns = [next(t for t in range(3) if child == pytest.approx(best[t])) for child in children]
    assert [(turn - turns[0]) % 3 for turn in turns] == [0, 1, 2, 0, 1, 2]


def test_two_elites_meet_about_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    _unmutated(monkeypatch, bins=2)
    strategy, points = _after([(0.9, 0.1), (0.1, 0.9)])
    children = np.array(strategy.ask(20))
    assert children == pytest.approx(np.tile(np.mean(points, axis=0), (20, 1)), abs=0.03)
    assert len({tuple(child) for child in children.tolist()}) > 1


def test_better_elites_are_parents_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    parents: list[tuple[float, ...]] = []

    def spy(pair: np.ndarray, weights: np.ndarray) -> np.ndarray:
        parents.extend(tuple(parent) for parent in pair.tolist())
        return crossover(pair, weights)

    monkeypatch.setattr(map_elites, "crossover", spy)
    strategy, points = _after([(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)])
    strategy.ask(1000)
    often = [parents.count(point) for point in points]
    # Their chances are 0.19, 0.32 and 0.49; whoever is drawn first is not drawn again.
    assert often[0] + 100 < often[1] < often[2] - 100


def test_mutation_moves_every_coordinate_of_a_lone_elite() -> None:
    strategy, (elite,) = _after([(0.5,)])
    children = np.array(strategy.ask(300))
    inside = np.minimum(elite, 1 - np.array(elite)) > 3 * map_elites.MUTATION
    assert inside.any()
    spread = (children - elite)[:, inside].std(axis=0)
    assert spread == pytest.approx(np.full(inside.sum(), map_elites.MUTATION), rel=0.15)


def test_stopped_candidates_are_archived_and_failed_ones_are_not() -> None:
    """A candidate that was stopped has estimated scores and no items."""
    strategy = CycleQD(StrategySettings(dimension=3, generation=8, seed=0))
    stopped, _ = strategy.ask(2)
    strategy.tell([Result(fitness=0.5, scores=(0.4, 0.6)), Result(fitness=None)])
    assert strategy._points == [stopped]
