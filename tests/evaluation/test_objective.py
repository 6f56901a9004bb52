"""Promise: the one number of a candidate is the one that the recipe asks for."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import RunError
from evomerge.evaluation.scores.objective import Objective, ObjectiveName
from evomerge.evaluation.scores.outcome import TaskScore

HIGHER = {"acc": True, "loss": False}


def scored(acc: float, loss: float, sureness: float | None = None) -> list[TaskScore]:
    return [
        TaskScore(task="acc", score=acc, items=(acc,), sureness=sureness),
        TaskScore(task="loss", score=loss, items=(loss,)),
    ]


def measured(name: ObjectiveName) -> Objective:
    """By sources of which the one is best at the first task, the other at the second."""
    objective = Objective(weights={"acc": 3.0, "loss": 1.0}, higher_is_better=HIGHER, name=name)
    return objective.measured_by([scored(0.8, 4.0), scored(0.4, 2.0)])


def test_a_task_to_be_minimised_counts_with_a_minus_sign() -> None:
    assert measured("mean").fitness(scored(0.8, 2.0)) == pytest.approx((3 * 0.8 - 2.0) / 4)


def test_whoever_equals_the_best_source_on_every_task_recovers_one() -> None:
    assert measured("recovery").fitness(scored(0.8, 2.0)) == pytest.approx(1.0)
    assert measured("worst").fitness(scored(0.8, 2.0)) == pytest.approx(1.0)


def test_recovery_is_the_weighted_mean_of_what_is_recovered_of_each_task() -> None:
    # Half of 0.8; a loss of 3 is half of 2 above it.
    assert measured("recovery").fitness(scored(0.4, 3.0)) == pytest.approx(0.5)
    assert measured("recovery").fitness(scored(0.4, 2.0)) == pytest.approx((3 * 0.5 + 1.0) / 4)


def test_the_worst_task_is_the_one_recovered_least_whatever_its_weight() -> None:
    assert measured("worst").fitness(scored(0.8, 3.0)) == pytest.approx(0.5)
    assert measured("worst").fitness(scored(0.2, 2.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["mean", "recovery", "worst"])
def test_the_fitness_is_the_least_of_the_aims(name: ObjectiveName) -> None:
    objective, scores = measured(name), scored(0.3, 2.5)
    aims = [
        aim.offset + sum(share * {"acc": 0.3, "loss": 2.5}[t] for t, share in aim.shares.items())
        for aim in objective.aims()
    ]
    assert objective.fitness(scores) == pytest.approx(min(aims))


@pytest.mark.parametrize("name", ["mean", "recovery", "worst"])
def test_means_over_items_are_measured_as_scores_that_are_means(name: ObjectiveName) -> None:
    objective = measured(name)
    means = {"acc": np.array([0.3, 0.8]), "loss": np.array([2.5, 4.0])}
    expected = [objective.fitness(scored(0.3, 2.5)), objective.fitness(scored(0.8, 4.0))]
    assert objective.of_means(means) == pytest.approx(expected)


def test_until_the_sources_are_known_every_objective_is_the_mean() -> None:
    objective = Objective(weights={"acc": 3.0, "loss": 1.0}, higher_is_better=HIGHER, name="worst")
    assert not objective.is_measured
    assert objective.fitness(scored(0.8, 2.0)) == measured("mean").fitness(scored(0.8, 2.0))


def test_a_task_that_no_source_solves_cannot_measure_recovery() -> None:
    objective = Objective(weights={"acc": 1.0, "loss": 1.0}, higher_is_better=HIGHER, name="worst")
    with pytest.raises(RunError, match="task acc by the best source, which scores 0"):
        objective.measured_by([scored(0.0, 1.0)])


def test_of_equal_scores_the_surer_one_is_higher_but_never_above_one_item_more() -> None:
    objective = measured("mean")
    sure, unsure = scored(0.5, 1.0, sureness=1.0), scored(0.5, 1.0, sureness=0.0)
    assert objective.fitness(sure) > objective.fitness(unsure)
    one_item_more = scored(0.5 + 1 / 10_000, 1.0, sureness=0.0)
    assert objective.fitness(one_item_more) > objective.fitness(sure)
