"""Promise: item response theory gives MERGE3's numbers, and finite ones for any answers."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evomerge.errors import EvaluationError
from evomerge.evaluation.scores.item_response import (
    Items,
    fit_ability,
    fit_items,
    fit_mixture,
    gmp_irt,
    mp_irt,
    mp_irt_difference,
    predict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.evaluation.scores.statistics import Array

    Estimator = Callable[..., list[float]]

ESTIMATORS = [mp_irt, gmp_irt, mp_irt_difference]
SOURCES = np.array([[1.0, 0.0], [-0.5, 1.0]])


def one_item(slope: float, difficulty: float) -> Items:
    return Items(slopes=np.array([[slope]]), difficulties=np.array([difficulty]))


def planted(rng: np.random.Generator, models: int, items: int) -> tuple[Items, Array, Array]:
    """Items, abilities of models, and what these answer."""
    truth = Items(slopes=rng.normal(0, 1.5, (items, 2)), difficulties=rng.normal(0, 1, items))
    abilities = rng.normal(0, 1, (models, 2))
    return truth, abilities, np.array([drawn(rng, truth, each) for each in abilities])


def drawn(rng: np.random.Generator, items: Items, ability: Array) -> Array:
    return (rng.random(len(items.difficulties)) < items.chances(ability)).astype(float)


@pytest.mark.parametrize(
    ("slope", "difficulty", "ability", "expected"),
    # By hand: sigma(0.5), and sigma(0.4) and sigma(-0.4) for a mixture 0.6 * 1 + 0.4 * (-0.5).
    [
        (1.5, 1.0, 1.0, 0.622459),
        (1.0, 0.0, 0.6 * 1 + 0.4 * -0.5, 0.598688),
        (1.5, 1.0, 0.6 * 1 + 0.4 * -0.5, 0.401312),
    ],
)
def test_the_chance_to_solve_an_item_is_that_computed_by_hand(
    slope: float, difficulty: float, ability: float, expected: float
) -> None:
    found = one_item(slope, difficulty).chances(np.array([ability]))
    assert found == pytest.approx([expected], abs=1e-6)


def test_a_hopeless_and_a_trivial_item_have_chances_zero_and_one() -> None:
    assert one_item(1.0, 1e4).chances(np.array([0.0])) == 0.0
    assert one_item(1.0, -1e4).chances(np.array([0.0])) == 1.0


def test_the_mixture_of_a_source_is_that_source() -> None:
    # Answers that are the chances themselves: no luck in them, the likelihood has its top there.
    truth, _, _ = planted(np.random.default_rng(0), 1, 2_000)
    for number, ability in enumerate(SOURCES):
        found = fit_mixture(truth, truth.chances(ability), SOURCES)
        assert found == pytest.approx(np.eye(2)[number], abs=1e-3)


def test_sources_that_cannot_be_told_apart_share_equally() -> None:
    truth, abilities, answers = planted(np.random.default_rng(1), 1, 50)
    first, second = fit_mixture(truth, answers[0], np.repeat(abilities, 2, axis=0))
    assert first == pytest.approx(second)


def test_weights_are_those_of_the_uniform_average_if_the_items_say_nothing() -> None:
    mute = Items(slopes=np.zeros((5, 2)), difficulties=np.zeros(5))
    assert fit_mixture(mute, np.ones(5), SOURCES) == pytest.approx([0.5, 0.5])


def test_a_mixture_stays_on_the_line_of_a_single_source() -> None:
    truth, _, answers = planted(np.random.default_rng(2), 1, 50)
    alone = SOURCES[:1]
    (weight,) = fit_mixture(truth[:20], answers[0][:20], alone)
    (chances,) = predict([answers[0][:20].tolist()], [truth], alone)
    assert chances == pytest.approx(truth.chances(weight * alone[0]))


def test_mp_irt_adds_what_was_seen_to_what_is_predicted_of_the_others() -> None:
    truth, _, answers = planted(np.random.default_rng(3), 1, 40)
    tasks, seen = [truth[:30], truth[30:]], [answers[0][:6].tolist(), answers[0][30:33].tolist()]
    found = mp_irt(seen, tasks, SOURCES)
    chances = predict(seen, tasks, SOURCES)
    assert found[0] == pytest.approx((sum(seen[0]) + chances[0][6:].sum()) / 30)
    assert found[1] == pytest.approx((sum(seen[1]) + chances[1][3:].sum()) / 10)


def test_gmp_irt_lies_halfway_between_the_mean_seen_and_mp_irt() -> None:
    truth, _, answers = planted(np.random.default_rng(4), 1, 40)
    seen = [answers[0][:8].tolist()]
    (halfway,), (predicted,) = gmp_irt(seen, [truth], SOURCES), mp_irt(seen, [truth], SOURCES)
    assert halfway == pytest.approx((np.mean(seen[0]) + predicted) / 2)
    assert gmp_irt(seen, [truth], SOURCES, c=1.0) == pytest.approx([np.mean(seen[0])])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("sources", [SOURCES, None], ids=["mixture", "any ability"])
def test_with_all_items_seen_every_estimate_is_the_plain_mean(
    estimator: Estimator, sources: Array | None
) -> None:
    truth, _, answers = planted(np.random.default_rng(5), 1, 40)
    seen = [answers[0][:25].tolist(), answers[0][25:].tolist()]
    found = estimator(seen, [truth[:25], truth[25:]], sources)
    assert found == pytest.approx([np.mean(scores) for scores in seen])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_estimates_are_finite_if_every_answer_is_the_same(
    estimator: Estimator, score: float
) -> None:
    items = fit_items(np.full((4, 30), score), dimensions=2)
    sources = np.array([fit_ability(items, np.full(30, score))] * 2)
    for seen in (0.0, 1.0):
        assert all(map(math.isfinite, estimator([[seen] * 6], [items], sources)))
    truth, _, _ = planted(np.random.default_rng(6), 1, 30)
    assert all(map(math.isfinite, estimator([[score] * 6], [truth], SOURCES)))


@pytest.mark.parametrize("count", [2, 3])
def test_the_difference_estimator_is_unbiased_however_wrong_the_item_parameters_are(
    count: int,
) -> None:
    wrong, _, _ = planted(np.random.default_rng(7), 1, 5)
    answers = np.array([1.0, 1.0, 0.0, 0.3, 1.0])
    # Every sample there is, so that the mean is exact.
    orders = [np.array(order) for order in permutations(range(5))]
    seen = [[answers[order][:count].tolist()] for order in orders]
    ours, theirs = (
        np.mean([each(s, [wrong[o]], SOURCES) for s, o in zip(seen, orders, strict=True)])
        for each in (mp_irt_difference, mp_irt)
    )
    assert ours == pytest.approx(answers.mean(), abs=1e-12)
    assert abs(theirs - answers.mean()) > 0.01


def test_fitted_parameters_recover_the_planted_chances() -> None:
    rng = np.random.default_rng(8)
    truth, abilities, answers = planted(rng, 100, 60)
    items = fit_items(answers, dimensions=2)
    found = [items.chances(fit_ability(items, each)) for each in answers]
    planted_chances = [truth.chances(each) for each in abilities]
    assert np.corrcoef(np.ravel(found), np.ravel(planted_chances))[0, 1] > 0.9
    assert np.corrcoef(items.difficulties, truth.difficulties)[0, 1] > 0.9


def test_with_true_items_mp_irt_beats_the_mean_of_few_items() -> None:
    rng = np.random.default_rng(9)
    truth, _, _ = planted(rng, 1, 200)
    errors = []
    for _ in range(300):
        answers = drawn(rng, truth, rng.dirichlet([1, 1]) @ SOURCES)
        order = rng.permutation(200)
        seen = [answers[order][:20].tolist()]
        (found,) = mp_irt(seen, [truth[order]], SOURCES)
        errors.append((found - answers.mean(), np.mean(seen[0]) - answers.mean()))
    predicted, plain = np.sqrt(np.mean(np.square(errors), axis=0))
    assert predicted < 0.8 * plain


def test_the_order_of_the_models_does_not_matter() -> None:
    _, _, answers = planted(np.random.default_rng(10), 12, 30)
    one, other = fit_items(answers, dimensions=2), fit_items(answers[::-1], dimensions=2)
    assert one.slopes == pytest.approx(other.slopes, abs=1e-6)
    assert one.difficulties == pytest.approx(other.difficulties, abs=1e-6)
    mixed = [
        mp_irt([answers[0][:9].tolist()], [one], sources) for sources in (SOURCES, SOURCES[::-1])
    ]
    assert mixed[0] == pytest.approx(mixed[1])


def test_fits_repeat_bit_for_bit() -> None:
    _, _, answers = planted(np.random.default_rng(11), 12, 30)
    one, other = fit_items(answers, dimensions=3), fit_items(answers.copy(), dimensions=3)
    assert one.slopes.tobytes() == other.slopes.tobytes()
    assert one.difficulties.tobytes() == other.difficulties.tobytes()


def test_two_models_may_have_more_dimensions_than_they_fill() -> None:
    items = fit_items(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), dimensions=5)
    assert items.slopes.shape == (3, 5)
    assert np.isfinite(items.slopes).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_scores_outside_zero_to_one_are_refused(wrong: float) -> None:
    with pytest.raises(EvaluationError, match=r"must lie in \[0, 1\]; 1 of 4 do not"):
        fit_items(np.array([[0.0, 1.0], [wrong, 0.5]]), dimensions=1)


def test_no_scores_are_refused() -> None:
    with pytest.raises(EvaluationError, match="there are none"):
        mp_irt([[]], [one_item(1.0, 0.0)], None)


def test_the_difference_estimator_needs_two_items_of_every_task() -> None:
    truth, _, _ = planted(np.random.default_rng(12), 1, 20)
    with pytest.raises(EvaluationError, match="1 items of a task have been seen; at least 2"):
        mp_irt_difference([[1.0, 0.0], [1.0]], [truth, truth], SOURCES)
