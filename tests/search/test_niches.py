"""Members share the items they solve, and are drawn to those that solve what they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evomerge.genome.genes import Gene
from evomerge.search import niches
from evomerge.search.contract import Point, Result, StrategySettings
from evomerge.search.niches import (
    ARCHIVE,
    M2N2,
    WARM_UP,
    attraction,
    crossover,
    degrees,
    item_scores,
    shared_fitness,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SOLVED = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]])
"""Three members, four items; two members solve the first item, two the third."""

populations = array_shapes(min_dims=2, max_dims=2, max_side=8)
binary = populations.flatmap(lambda shape: arrays(float, shape, elements=st.sampled_from([0, 1])))
graded = populations.flatmap(lambda shape: arrays(float, shape, elements=st.floats(0, 1)))


def test_those_who_solve_an_item_share_it() -> None:
    fitness = shared_fitness(SOLVED)
    assert fitness.tolist() == [1.5, 1.0, 1.5]
    assert (fitness / fitness.sum()).tolist() == [0.375, 0.25, 0.375]


def test_without_sharing_fitness_is_the_number_of_solved_items() -> None:
    assert shared_fitness(SOLVED[:, :3], alpha=0.0).tolist() == [2, 2, 1]


def test_a_half_solved_item_is_half_an_item() -> None:
    """Capacity is the best degree: 0.5 of the first item, shared 5 to 1; 1 of the second."""
    solved = np.array([[0.5, 1.0], [0.1, 0.0]])
    assert shared_fitness(solved) == pytest.approx([0.5 * 5 / 6 + 1, 0.5 / 6])


def test_what_others_solve_and_few_do_attracts() -> None:
    assert attraction(SOLVED, 0).tolist() == [0.0, 0.5, 1.5]


@given(solved=graded)
def test_the_fitness_of_all_is_what_is_solved_at_best(solved: np.ndarray) -> None:
    assert shared_fitness(solved).sum() == pytest.approx(solved.max(axis=0).sum())


@given(solved=binary)
def test_the_fitness_of_all_is_the_number_of_items_that_anyone_solves(solved: np.ndarray) -> None:
    assert shared_fitness(solved).sum() == pytest.approx(solved.any(axis=0).sum())


@given(solved=binary)
def test_who_alone_solves_an_item_has_a_fitness_of_one_at_least(solved: np.ndarray) -> None:
    alone = solved[:, solved.sum(axis=0) == 1].any(axis=1)
    assert (shared_fitness(solved)[alone] >= 1).all()


@given(solved=binary)
def test_a_clone_gets_the_same_and_takes_at_most_half(solved: np.ndarray) -> None:
    before = shared_fitness(solved)[0]
    original, *_, clone = shared_fitness(np.vstack([solved, solved[0]]))
    assert original == clone
    assert before / 2 <= original + 1e-9 <= before + 2e-9


@given(solved=binary)
def test_a_clone_takes_half_of_a_niche_that_was_one_members_own(solved: np.ndarray) -> None:
    solved[1:] *= 1 - solved[0]
    before = shared_fitness(solved)[0]
    assert shared_fitness(np.vstack([solved, solved[0]]))[0] == pytest.approx(before / 2)


@given(solved=graded)
def test_nobody_attracts_who_solves_nothing_better(solved: np.ndarray) -> None:
    lacking = (solved > solved[0]).any(axis=1)
    attracts = attraction(solved, 0)
    assert not lacking[0]
    assert (attracts[~lacking] == 0).all()


def test_the_split_turns_the_way_round() -> None:
    before = np.array([True, True, False, False])
    child = crossover(np.zeros(4), np.ones(4), way=0.25, before=before)
    assert child.tolist() == [0.25, 0.25, 0.75, 0.75]


def test_scores_between_nought_and_one_are_degrees_as_they_are() -> None:
    for scores in (SOLVED, np.array([[0.2, 0.9], [0.4, 0.9]])):
        assert degrees(scores).tolist() == scores.tolist()


def test_likelihoods_become_degrees_between_the_worst_and_the_best() -> None:
    found = degrees(np.array([[-3.0, -1.0, 0.5], [-1.0, -1.0, 0.0], [-2.0, -1.0, 1.0]]))
    assert found.tolist() == [[0.0, 0.0, 0.5], [1.0, 0.0, 0.0], [0.5, 0.0, 1.0]]


def test_a_stopped_member_is_taken_to_score_as_others_do_but_for_its_mean() -> None:
    """The others have 0.5 on average, it has 0.4; nobody is worse than failing an item."""
    results = [
        Result(fitness=0.0, scores=(1.0, 0.0), items=(1.0, 1.0, 0.0, 0.0)),
        Result(fitness=0.0, scores=(0.5, 0.5), items=(1.0, 0.0, 1.0, 0.0)),
        Result(fitness=0.0, scores=(0.6, 0.2)),
    ]
    scores = item_scores(results)
    assert scores[:2].tolist() == [[1, 1, 0, 0], [1, 0, 1, 0]]
    assert scores[2] == pytest.approx([0.9, 0.4, 0.4, 0.0])


def test_while_all_are_stopped_tasks_stand_for_items() -> None:
    results = [Result(fitness=0.0, scores=scores) for scores in [(0.6, 0.2), (0.1, 0.5)]]
    assert item_scores(results).tolist() == [[0.6, 0.2], [0.1, 0.5]]


@given(likelihoods=arrays(float, (3, 4), elements=st.floats(-50, 2)), mean=st.floats(-100, 100))
def test_degrees_are_shares_whatever_is_estimated(likelihoods: np.ndarray, mean: float) -> None:
    whole = [
        Result(fitness=0.0, scores=(float(row.mean()),), items=tuple(row.tolist()))
        for row in likelihoods
    ]
    found = degrees(item_scores([*whole, Result(fitness=0.0, scores=(mean,))]))
    assert found.shape == (4, 4)
    assert ((found >= 0) & (found <= 1)).all()


def _strategy(genes: tuple[Gene, ...] = (), dimension: int = 4) -> M2N2:
    return M2N2(StrategySettings(dimension=dimension, generation=8, seed=0, genes=genes))


def _play(strategy: M2N2, items: Sequence[tuple[float, ...]]) -> list[Point]:
    """Ask for as many points as there are rows of items, and tell them."""
    points = strategy.ask(len(items))
    strategy.tell(
        [Result(fitness=sum(row), scores=(sum(row) / len(row),), items=row) for row in items]
    )
    return points


def test_who_alone_solves_an_item_stays_however_little_else_it_solves() -> None:
    strategy = _strategy()
    (specialist,) = _play(strategy, [(1, 0, 0, 0, 0, 0)])
    _play(strategy, [(0, 1, 1, 1, 1, 1)] * 10 * ARCHIVE)
    assert specialist in strategy._archive.members
    assert len(strategy._archive.members) == ARCHIVE


def test_of_equals_the_oldest_leaves() -> None:
    strategy = _strategy()
    points = _play(strategy, [(1.0, 0.0)] * (ARCHIVE + 3))
    assert strategy._archive.members == points[3:]


def test_who_was_stopped_enters_the_archive_and_who_failed_does_not() -> None:
    strategy = _strategy()
    stopped, _ = strategy.ask(2)
    strategy.tell([Result(fitness=0.5, scores=(0.4, 0.6)), Result(fitness=None)])
    assert strategy._archive.members == [stopped]


def test_the_first_points_do_not_depend_on_what_came_of_them() -> None:
    alike, unlike = _strategy(), _strategy()
    for turn in range(WARM_UP):
        assert _play(alike, [(1.0, 1.0)]) == _play(unlike, [(float(turn > 9), float(turn < 5))])
    assert alike.ask(8) != unlike.ask(8)


def test_parents_are_drawn_by_shared_fitness_and_attraction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents: list[tuple[Point, Point]] = []

    def spy(first: np.ndarray, second: np.ndarray, **_: object) -> np.ndarray:
        parents.append((tuple(first.tolist()), tuple(second.tolist())))
        return first

    monkeypatch.setattr(niches, "crossover", spy)
    strategy = _strategy()
    members = _play(strategy, [tuple(row) for row in SOLVED.tolist()])
    strategy.ask(WARM_UP - len(members))
    strategy.ask(4000)
    assert len(parents) == 4000
    chosen = np.array([[members.index(each) for each in pair] for pair in parents])
    firsts = np.bincount(chosen[:, 0], minlength=3) / len(chosen)
    assert firsts == pytest.approx([0.375, 0.25, 0.375], abs=0.04)
    mates = chosen[chosen[:, 0] == 0, 1]
    assert np.bincount(mates, minlength=3) / len(mates) == pytest.approx([0, 0.25, 0.75], abs=0.05)


def _genes(groups: int) -> tuple[Gene, ...]:
    """Source by source, as genomes list them: the groups take turns."""
    return tuple(
        Gene(parameter="weight", source=source, group=group, component=None, low=0.0, high=1.0)
        for source in range(2)
        for group in range(groups)
    )


def _ways(genes: tuple[Gene, ...], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """How far unmutated children of two parents lie on the way between them, gene by gene."""
    monkeypatch.setattr(niches, "MUTATION", 0.0)
    strategy = _strategy(genes, len(genes))
    parents = np.array(_play(strategy, [(1.0, 0.0), (0.0, 1.0)]))
    strategy.ask(WARM_UP)
    strategy.tell([Result(fitness=None)] * WARM_UP)
    return (np.array(strategy.ask(50)) - parents[0]) / (parents[1] - parents[0])


def test_a_child_changes_its_way_once_in_depth_and_between_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = 4
    ways = _ways(_genes(groups), monkeypatch).reshape(50, 2, groups)
    # What one source gets in a group, the other gets, too.
    assert ways[:, 0] == pytest.approx(ways[:, 1])
    first, last = ways[:, 0, :1], ways[:, 0, -1:]
    assert first + last == pytest.approx(np.ones((50, 1)))
    after = np.abs(ways[:, 0] - last) < np.abs(ways[:, 0] - first)
    assert ways[:, 0] == pytest.approx(np.where(after, last, first))
    splits = groups - after.sum(axis=1)
    assert (np.diff(after.astype(int), axis=1) >= 0).all()
    assert set(splits.tolist()) == {1, 2, 3}


def test_a_model_in_one_group_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = _ways(_genes(1), monkeypatch)
    assert ways[:, 0] == pytest.approx(ways[:, 1])


def test_mutation_leaves_the_box_that_the_archive_spans() -> None:
    strategy = _strategy()
    parents = np.array(_play(strategy, [(1.0, 0.0), (0.0, 1.0)]))
    strategy.ask(WARM_UP)
    strategy.tell([Result(fitness=None)] * WARM_UP)
    children = np.array(strategy.ask(50))
    assert ((children > parents.max(axis=0)) | (children < parents.min(axis=0))).any(axis=0).all()
