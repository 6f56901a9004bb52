"""Particles follow the best places, which never get worse, and wait for what they found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.swarm import REPULSION, SMALLEST, Particle, Swarm, next_velocity

SIZE = 5


def _swarm(dimension: int = 3, generation: int = SIZE, seed: int = 0) -> Swarm:
    return Swarm(StrategySettings(dimension=dimension, generation=generation, seed=seed))


def _tell(swarm: Swarm, *fitness: float | None) -> None:
    swarm.tell([Result(fitness=value) for value in fitness])


def test_the_velocity_by_hand() -> None:
    velocity = next_velocity(
        place=np.array([0.5, 0.5]),
        velocity=np.array([0.1, -0.1]),
        own_best=np.array([0.7, 0.5]),
        best=np.array([0.9, 0.0]),
        worst=np.array([0.2, 0.5]),
        repulsion=0.25,
        draws=np.array([[0.5, 0.3], [0.25, 0.1], [0.4, 1.0]]),
    )
    # 0.2 * 0.1 + 2 * 0.5 * 0.2 + 2 * 0.25 * 0.4 + 0.25 * 0.4 * 0.3; -0.02 + 2 * 0.1 * -0.5.
    assert velocity.tolist() == pytest.approx([0.45, -0.12])


def test_where_everything_is_in_one_place_only_a_fifth_of_the_velocity_is_left() -> None:
    place = np.array([0.4, 0.6])
    velocity = next_velocity(
        place=place,
        velocity=np.array([0.5, -0.5]),
        own_best=place,
        best=place,
        worst=place,
        repulsion=1.0,
        draws=np.ones((3, 2)),
    )
    assert velocity.tolist() == pytest.approx([0.1, -0.1])


def test_the_repulsion_halves_with_every_step() -> None:
    swarm = _swarm()
    for _ in range(3):
        swarm.ask(SIZE)
        _tell(swarm, *np.linspace(0, 1, SIZE))
    # Two steps: the first places were only taken.
    assert {particle.repulsion for particle in swarm._resting} == {REPULSION / 4}


def test_a_particle_sets_out_towards_a_place_in_the_cube() -> None:
    swarm = _swarm(dimension=50)
    swarm.ask(SIZE)
    goals = np.array([particle.place + particle.velocity for particle in swarm._under_way])
    assert ((goals >= 0) & (goals <= 1)).all()
    assert len(np.unique(goals)) == SIZE * 50


def _particles(swarm: Swarm) -> list[Particle]:
    return [*swarm._resting, *swarm._under_way]


@given(
    rounds=st.lists(
        st.lists(st.none() | st.floats(-1e3, 1e3), min_size=SIZE, max_size=SIZE), max_size=5
    )
)
def test_neither_a_particles_best_nor_the_swarms_ever_falls(
    rounds: list[list[float | None]],
) -> None:
    swarm = _swarm()
    found: dict[int, list[float]] = {}
    for fitness in rounds:
        swarm.ask(SIZE)
        for particle, value in zip(list(swarm._under_way), fitness, strict=True):
            found.setdefault(id(particle), []).extend([] if value is None else [value])
        _tell(swarm, *fitness)
        for particle in _particles(swarm):
            mine = found[id(particle)]
            assert (particle.best.fitness if particle.best else None) == max(mine, default=None)
        everything = [value for values in found.values() for value in values]
        assert (swarm._best.fitness if swarm._best else None) == max(everything, default=None)
        assert (swarm._worst.fitness if swarm._worst else None) == min(everything, default=None)


def test_of_equal_places_the_first_stays_the_best() -> None:
    swarm = _swarm()
    first, *_ = swarm.ask(SIZE)
    _tell(swarm, *[0.5] * SIZE)
    assert swarm._best is not None
    assert tuple(swarm._best.place.tolist()) == first


def test_a_particle_moves_once_its_place_was_told() -> None:
    swarm = _swarm()
    swarm.ask(SIZE)
    oldest, second = list(swarm._under_way)[:2]
    _tell(swarm, 0.1, 0.2)
    before = oldest.place
    (point,) = swarm.ask(1)
    assert swarm._under_way[-1] is oldest
    assert point == tuple(oldest.place.tolist()) != tuple(before.tolist())
    swarm.ask(1)
    assert swarm._under_way[-1] is second


def test_a_particle_is_drawn_to_the_best_that_it_found_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(
        "evomerge.search.swarm.next_velocity",
        lambda **forces: seen.append(forces) or 0 * forces["place"] + 0.01,
    )
    swarm = _swarm()
    first = swarm.ask(SIZE)
    _tell(swarm, 0.5, 0.1, None, 0.3, 0.2)
    second = swarm.ask(SIZE)
    _tell(swarm, 0.4, 0.9, None, 0.1, None)
    third = swarm.ask(SIZE)
    own = [tuple(forces["own_best"].tolist()) for forces in seen[SIZE:]]
    # The third knows nothing, and is drawn to where it is.
    assert own == [first[0], second[1], second[2], first[3], first[4]]
    assert {tuple(forces["best"].tolist()) for forces in seen[SIZE:]} == {second[1]}
    assert {tuple(forces["worst"].tolist()) for forces in seen[SIZE:]} == {first[1]}
    assert len(set(third)) == SIZE


def test_new_particles_join_while_all_are_under_way() -> None:
    swarm = _swarm()
    points = swarm.ask(3 * SIZE)
    assert len(set(points)) == 3 * SIZE
    assert len({id(particle) for particle in swarm._under_way}) == 3 * SIZE


@pytest.mark.parametrize(("generation", "size"), [(1, SMALLEST), (SMALLEST, SMALLEST), (7, 7)])
def test_there_are_as_many_particles_as_a_generation_has_points(
    generation: int, size: int
) -> None:
    swarm = _swarm(generation=generation)
    for _ in range(20):
        swarm.ask(generation)
        _tell(swarm, *[0.5] * generation)
    assert len(_particles(swarm)) == size


def test_while_everything_fails_places_are_drawn_anew() -> None:
    failing, lucky = _swarm(dimension=40), _swarm(dimension=40)
    for swarm, fitness in ((failing, None), (lucky, 1.0)):
        before = swarm.ask(SIZE)
        _tell(swarm, *[fitness] * SIZE)
    places = np.array(failing.ask(SIZE))
    assert not ((places == 0) | (places == 1)).any()
    assert not (places == before).any()
    assert len(_particles(failing)) == SIZE
    # The velocities of those that know something take some of them to the walls.
    moved = np.array(lucky.ask(SIZE))
    assert ((moved == 0) | (moved == 1)).any()


def test_a_particle_that_failed_is_drawn_to_the_swarms_best() -> None:
    swarm = _swarm(dimension=200)
    points = np.array(swarm.ask(SIZE))
    _tell(swarm, None, 1.0, *[None] * (SIZE - 2))
    (moved,) = np.array(swarm.ask(1))
    assert np.abs(moved - points[1]).mean() < np.abs(points[0] - points[1]).mean()
