"""Promise: what is split stays the model that it was, and is searched more finely from there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.genome.genes import Gene
from evomerge.layout import Component
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.ladder import ELITES, Ladder, Rung, halves, ladder, series

GENERATION = 8


def gene(source: int, group: int, component: Component | None = None) -> Gene:
    return Gene(
        parameter="weight", source=source, group=group, component=component, low=0.0, high=1.0
    )


def settings_of(layers: int = 4, **others: object) -> StrategySettings:
    genes = tuple(gene(source, group) for source in (0, 1) for group in range(layers))
    given = {"dimension": len(genes), "genes": genes, "generation": GENERATION, "seed": 0}
    return StrategySettings(**given | others)  # type: ignore[arg-type]


def listed(groups: tuple[np.ndarray, ...]) -> list[list[int]]:
    return [group.tolist() for group in groups]


def tell(strategy: Ladder, *fitness: float | None) -> None:
    strategy.tell([Result(fitness=value) for value in fitness])


def test_a_series_is_what_differs_only_in_depth() -> None:
    genes = (gene(0, 1), gene(0, 0), gene(1, 0), gene(0, 0, Component.MLP), gene(1, 1))
    settings = StrategySettings(dimension=5, genes=genes, generation=4, seed=0)
    assert listed(series(settings)) == [[1, 0], [2, 4], [3]]


def test_coordinates_of_which_nothing_is_known_are_one_series() -> None:
    assert listed(series(StrategySettings(dimension=3, generation=4, seed=0))) == [[0, 1, 2]]


def test_the_rungs_by_hand() -> None:
    rungs = ladder((np.array([0, 1, 2, 3, 4]), np.array([5, 6])))
    assert [listed(rung) for rung in rungs] == [
        [[0, 1, 2, 3, 4], [5, 6]],
        [[0, 1], [2, 3, 4], [5], [6]],
        [[0], [1], [2], [3, 4], [5], [6]],
        [[0], [1], [2], [3], [4], [5], [6]],
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_every_rung_has_every_coordinate_once_and_halves_the_last_one(sizes: list[int]) -> None:
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rungs = ladder(tuple(parts))
    for rung in rungs:
        assert sorted(np.concatenate(rung).tolist()) == list(range(sum(sizes)))
    for coarse, fine in pairwise(rungs):
        assert listed(fine) == listed(tuple(half for group in coarse for half in halves(group)))
    assert max(map(len, rungs[-1])) == 1


def test_a_rung_moves_its_groups_by_hand() -> None:
    rung = Rung(groups=(np.array([0, 2]), np.array([1])), centre=np.array([0.2, 0.6, 0.4]))
    assert rung.means.tolist() == pytest.approx([0.3, 0.6])
    for tied, apart, expected in [
        ([0.5, 0.1], [0.0, 0.0], [0.4, 0.1, 0.6]),
        # A group of one has no halves.
        ([0.5, 0.1], [0.1, 0.1], [0.5, 0.1, 0.5]),
        ([0.95, 0.1], [-0.05, 0.1], [0.8, 0.1, 1.0]),
    ]:
        assert rung.point(np.array(tied), np.array(apart)).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_a_split_changes_nothing_by_itself(centre: list[float]) -> None:
    for groups in ladder((np.arange(5),)):
        rung = Rung(groups=groups, centre=np.array(centre))
        assert rung.point(rung.means, np.zeros(len(groups))) == pytest.approx(centre, abs=1e-12)


def test_at_first_only_halves_of_the_layers_differ_and_at_last_all_do() -> None:
    strategy = Ladder(settings_of(candidates=4 * GENERATION))
    distinct = []
    for _ in range(5):
        points = strategy.ask(GENERATION)
        distinct.append({len(set(point)) for point in points})
        tell(strategy, *(-sum((x - 0.7) ** 2 for x in point) for point in points))
    # Half of the plan, two generations, for two splits.
    assert [max(each) for each in distinct] == [4, 8, 8, 8, 8]


def test_the_next_rung_starts_from_the_mean_of_the_best() -> None:
    strategy = Ladder(settings_of(candidates=40))
    points = strategy.ask(2 * ELITES)
    tell(strategy, *range(2 * ELITES))
    assert strategy._rung.centre.tolist() == pytest.approx(np.mean(points[ELITES:], axis=0))


def test_of_choices_the_next_rung_takes_those_of_the_best_point() -> None:
    genes = tuple(
        Gene(parameter="operator", source=None, group=group, component=None, choices=("a", "b"))
        for group in range(4)
    )
    strategy = Ladder(
        StrategySettings(dimension=4, genes=genes, generation=8, seed=0, candidates=8)
    )
    points = strategy.ask(8)
    tell(strategy, *range(8))
    assert strategy._rung.centre.tolist() == list(points[-1])


def test_what_is_told_late_of_a_lower_rung_still_is_among_the_best() -> None:
    strategy = Ladder(settings_of(candidates=4 * GENERATION))
    points = strategy.ask(2 * GENERATION)
    tell(strategy, *[0.0] * GENERATION)
    points += strategy.ask(GENERATION)
    tell(strategy, *[1.0] * GENERATION)
    assert len(strategy._rung.groups) == 8
    late = points[GENERATION : 2 * GENERATION]
    assert strategy._rung.centre.tolist() == pytest.approx(np.mean(late, axis=0))
    tell(strategy, *[0.5] * GENERATION)
    assert len(strategy.ask(GENERATION)) == GENERATION


def test_differences_that_the_centre_has_among_layers_are_kept() -> None:
    centre = (0.3, 0.4, 0.5, 0.6) * 2
    points = Ladder(settings_of(centre=centre, step=0.02)).ask(GENERATION)
    assert np.diff(points, axis=1)[:, [0, 2, 4, 6]] == pytest.approx(0.1)
    # The halves are moved apart by half a step each.
    assert abs(np.diff(points, axis=1)[:, [1, 5]] - 0.1) == pytest.approx(0.02)


def test_nothing_is_split_while_everything_fails() -> None:
    strategy = Ladder(settings_of(candidates=GENERATION))
    for _ in range(3):
        strategy.ask(GENERATION)
        tell(strategy, *[None] * GENERATION)
    assert len(strategy._rung.groups) == 2


def test_without_a_plan_every_result_is_a_reason_to_split() -> None:
    strategy = Ladder(settings_of(candidates=0))
    sizes = []
    for _ in range(4):
        sizes.append(len(strategy._rung.groups))
        strategy.ask(1)
        tell(strategy, 0.5)
    assert sizes == [2, 4, 8, 8]


def test_the_greatest_seed_is_no_problem() -> None:
    strategy = Ladder(settings_of(seed=2**32 - 1, candidates=4))
    strategy.ask(4)
    tell(strategy, 0.1, 0.2, 0.3, 0.4)
    assert len(strategy.ask(4)) == 4
