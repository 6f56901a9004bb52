"""Children lie between and around their parents, mutants around their point, all in the cube."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.variation import (
    crossed,
    gaussian,
    index_of,
    mutated,
    polynomial,
    polynomial_step,
    redrawn,
    simulated_binary,
)

if TYPE_CHECKING:
    from evomerge.search.variation import Mutation

coordinates = st.floats(0, 1)
draws = st.floats(0, 1, exclude_max=True)
etas = st.sampled_from([1.0, 5.0, 20.0])


def _children(first: float, second: float, draw: float, eta: float = 1.0) -> list[float]:
    parents = np.array([first]), np.array([second])
    return [child.item() for child in simulated_binary(*parents, np.array([draw]), eta=eta)]


def _mutant(point: float, draw: float, eta: float = 1.0) -> float:
    return polynomial(np.array([point]), np.array([draw]), eta=eta).item()


@pytest.mark.parametrize(
    ("draw", "lower", "upper"),
    [
        # The room is 1 + 2 * 0.25 / 0.5 = 2 distances of the parents, so a draw counts 2 - 2^-2.
        pytest.param(0.0, 0.5, 0.5, id="both in the middle"),
        pytest.param(0.25 / 1.75, 0.375, 0.625, id="half as far apart as the parents"),
        pytest.param(1 / 1.75, 0.25, 0.75, id="the parents"),
        pytest.param(1.0, 0.0, 1.0, id="at the bounds"),
    ],
)
def test_children_of_a_quarter_and_three_quarters(draw: float, lower: float, upper: float) -> None:
    assert _children(0.25, 0.75, draw) == pytest.approx([lower, upper])
    assert _children(0.75, 0.25, draw) == pytest.approx([lower, upper])


@pytest.mark.parametrize(
    ("draw", "mutant"),
    [
        (0.0, 0.0),
        # 2 * 0.125 + 0.75 * 0.5^2 = 0.4375, and 0.5 + sqrt(0.4375) - 1.
        (0.125, 0.16143783),
        (0.5, 0.5),
        (0.875, 0.83856217),
        (1.0, 1.0),
    ],
)
def test_mutants_of_one_half(draw: float, mutant: float) -> None:
    assert _mutant(0.5, draw) == pytest.approx(mutant)


@given(first=coordinates, second=coordinates, draw=draws, eta=etas)
def test_children_are_in_the_cube_with_the_middle_of_the_parents_between_them(
    first: float, second: float, draw: float, eta: float
) -> None:
    lower, upper = _children(first, second, draw, eta)
    assert 0 <= lower <= (first + second) / 2 + 1e-9
    assert (first + second) / 2 - 1e-9 <= upper <= 1


@given(point=coordinates, draw=draws, eta=etas)
def test_mutants_are_in_the_cube_on_the_side_that_the_draw_says(
    point: float, draw: float, eta: float
) -> None:
    mutant = _mutant(point, draw, eta)
    assert 0 <= mutant <= 1
    assert mutant <= point + 1e-9 if draw < 0.5 else mutant >= point - 1e-9


@given(draw=st.sampled_from([0.05, 0.3, 0.8, 0.95]))
def test_a_greater_index_stays_nearer(draw: float) -> None:
    assert abs(_mutant(0.4, draw, 20) - 0.4) < abs(_mutant(0.4, draw, 5) - 0.4)
    near, far = _children(0.3, 0.6, draw, 20), _children(0.3, 0.6, draw, 2)
    assert abs(near[1] - 0.6) < abs(far[1] - 0.6)


def test_an_index_belongs_to_the_step_that_is_its_standard_deviation() -> None:
    # The variances of 5, 1 and 0 are 2 / (7 * 8), 2 / (3 * 4) and 2 / (2 * 3).
    steps = np.sqrt([1 / 28, 1 / 6, 1 / 3])
    assert index_of(steps).tolist() == pytest.approx([5, 1, 0])
    assert index_of(2.0) == 0


@pytest.mark.parametrize("mutation", [gaussian, polynomial_step])
def test_far_from_the_walls_mutants_lie_a_step_away(mutation: Mutation) -> None:
    point, steps = np.full(40_000, 0.5), np.where(np.arange(40_000) % 2, 0.02, 0.1)
    moved = mutation(point, steps, np.random.default_rng(0)) - point
    assert moved[1::2].std() == pytest.approx(0.02, rel=0.03)
    assert moved[::2].std() == pytest.approx(0.1, rel=0.03)


def test_near_a_wall_a_polynomial_mutant_hardly_ever_ends_on_it() -> None:
    point, rng = np.full(10_000, 0.95), np.random.default_rng(0)
    assert (gaussian(point, 0.1, rng) >= 1).mean() > 0.25
    assert (polynomial_step(point, 0.1, rng) >= 1).mean() == 0


@given(seed=st.integers(0, 1000), dimension=st.integers(1, 30))
def test_a_mutant_is_never_its_parent(seed: int, dimension: int) -> None:
    point = np.full(dimension, 0.5)
    assert (mutated(point, np.random.default_rng(seed), eta=5.0) != point).any()


def test_about_one_coordinate_in_all_is_mutated() -> None:
    rng, point = np.random.default_rng(0), np.full(20, 0.5)
    counts = [(mutated(point, rng, eta=5.0) != point).sum() for _ in range(1000)]
    # One in expectation, and one more where there was none: 1 + 0.95^20.
    assert np.mean(counts) == pytest.approx(1.36, abs=0.1)


def test_a_child_has_half_of_its_coordinates_from_the_first_parent() -> None:
    rng = np.random.default_rng(0)
    child = crossed(np.full(2000, 0.2), np.full(2000, 0.6), rng, eta=5.0)
    assert (child == 0.2).mean() == pytest.approx(0.5, abs=0.05)
    assert child[child != 0.2].mean() == pytest.approx(0.4, abs=0.02)


def test_what_parents_agree_on_is_inherited() -> None:
    first, second = np.array([0.3, 0.1]), np.array([0.3, 0.9])
    children = [crossed(first, second, np.random.default_rng(s), eta=5.0) for s in range(50)]
    assert {child[0] for child in children} == {0.3}
    assert len({child[1] for child in children}) > 10


CHOICES = np.array([True, False] * 3)


@given(st.integers(0, 1000))
def test_choices_are_crossed_by_taking_that_of_either_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 6))
    child = crossed(first, second, rng, eta=1.0, choices=CHOICES)
    assert ((child == first) | (child == second))[CHOICES].all()


def test_a_choice_mutates_to_any_place_with_equal_chances() -> None:
    rng, point = np.random.default_rng(0), np.array([0.1])
    choice = np.array([True])
    mutants = [mutated(point, rng, eta=20.0, choices=choice).item() for _ in range(5000)]
    assert np.histogram(mutants, bins=5, range=(0, 1))[0] / 5000 == pytest.approx(0.2, abs=0.02)


def test_numbers_are_not_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    point = np.linspace(0, 1, 6)
    assert (redrawn(point, CHOICES, rng) == point).tolist() == (~CHOICES).tolist()
    assert redrawn(point, None, rng) is point
