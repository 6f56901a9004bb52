"""Crossovers hand over whole genes by structure; only a blend makes new values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.genome.genes import Gene
from evomerge.layout import Component
from evomerge.search.contract import StrategySettings
from evomerge.search.crossover import (
    ALPHA,
    blend,
    crossovers,
    swap_parts,
    swap_run,
    uniform,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.crossover import Crossover

seeds = st.integers(0, 10_000)


def _gene(group: int, component: Component | None, source: int | None, parameter: str) -> Gene:
    return Gene(
        parameter=parameter, source=source, group=group, component=component, low=0.0, high=1.0
    )


GENES = tuple(
    _gene(group, component, source, parameter)
    for parameter, source in (("weight", 0), ("weight", 1), ("scale", None))
    for group in range(4)
    for component in (Component.ATTENTION, None)
)
"""Two parameters, one of them for each of two sources; four layer groups and two components."""


def _crossovers(genes: Sequence[Gene] = GENES, dimension: int = len(GENES)) -> list[Crossover]:
    return crossovers(
        StrategySettings(dimension=dimension, generation=8, seed=0, genes=tuple(genes))
    )


def _taken(cross: Crossover, seed: int, dimension: int = len(GENES)) -> list[bool]:
    """Which genes come from the second parent; every one comes from either."""
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, dimension))
    offspring = cross(first, second, rng)
    assert ((offspring == first) | (offspring == second)).all()
    return [bool(taken) for taken in offspring == second]


def _of_one_kind(labels: Sequence[object], taken: Sequence[bool]) -> dict[object, bool]:
    """Whether each label's genes were taken; they go together."""
    kinds = dict(zip(labels, taken, strict=True))
    assert [kinds[label] for label in labels] == list(taken)
    return kinds


@given(seeds)
def test_uniform_crossover_takes_every_gene_from_a_parent(seed: int) -> None:
    assert len(_taken(uniform, seed)) == len(GENES)


def test_uniform_crossover_takes_half_of_the_genes_from_either_parent() -> None:
    assert np.mean(_taken(uniform, 0, 10_000)) == pytest.approx(0.5, abs=0.02)


@given(seeds)
def test_two_point_crossover_swaps_one_run_of_layer_groups(seed: int) -> None:
    _, _, by_depth, *_ = _crossovers()
    kinds = _of_one_kind([gene.group for gene in GENES], _taken(by_depth, seed))
    swapped = [group for group in range(4) if kinds[group]]
    assert 0 < len(swapped) < 4
    assert swapped == list(range(swapped[0], swapped[-1] + 1))


def test_two_point_crossover_makes_every_cut() -> None:
    groups = np.arange(4)
    runs = {
        tuple(np.flatnonzero(swap_run(groups, np.zeros(4), np.ones(4), np.random.default_rng(s))))
        for s in range(200)
    }
    assert runs == {(1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)}


@given(seeds)
def test_components_travel_whole(seed: int) -> None:
    _, _, _, by_component, *_ = _crossovers()
    kinds = _of_one_kind([gene.component for gene in GENES], _taken(by_component, seed))
    assert set(kinds.values()) == {True, False}


@given(seeds)
def test_sources_travel_whole(seed: int) -> None:
    *_, by_source, _ = _crossovers()
    kinds = _of_one_kind([gene.source for gene in GENES], _taken(by_source, seed))
    assert set(kinds.values()) == {True, False}


@given(seeds)
def test_parameters_travel_whole(seed: int) -> None:
    *_, by_parameter = _crossovers()
    kinds = _of_one_kind([gene.parameter for gene in GENES], _taken(by_parameter, seed))
    assert set(kinds.values()) == {True, False}


def test_any_parts_may_be_taken_but_all_or_none() -> None:
    parts = np.arange(3)
    taken = {
        tuple(swap_parts(parts, np.zeros(3), np.ones(3), np.random.default_rng(s)).tolist())
        for s in range(200)
    }
    assert len(taken) == 2**3 - 2


@given(seeds)
def test_a_blend_stays_near_the_interval_between_its_parents(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 5))
    offspring = blend(first, second, rng)
    reach = ALPHA * abs(first - second) + 1e-12
    assert (offspring >= np.maximum(np.minimum(first, second) - reach, 0)).all()
    assert (offspring <= np.minimum(np.maximum(first, second) + reach, 1)).all()


def test_blends_fill_the_interval_and_half_of_it_on_either_side() -> None:
    values = blend(np.full(5000, 0.4), np.full(5000, 0.6), np.random.default_rng(0))
    assert (values.min(), values.max()) == pytest.approx((0.3, 0.7), abs=0.001)


def test_without_genes_every_coordinate_is_a_layer() -> None:
    _, _, by_depth = _crossovers((), 6)
    taken = np.flatnonzero(_taken(by_depth, 0, 6))
    assert taken.tolist() == list(range(taken[0], taken[-1] + 1))


def test_what_could_only_hand_over_a_whole_parent_is_left_out() -> None:
    same = [_gene(0, None, None, "weight")] * 3
    assert _crossovers(same, 3) == [uniform, blend]
    assert _crossovers((), 1) == [uniform, blend]


@given(seeds)
def test_a_blend_takes_the_choice_of_either_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 8))
    choices = np.arange(8) < 4
    offspring = blend(first, second, rng, choices=choices)
    to_parents = np.minimum(abs(offspring - first), abs(offspring - second))
    assert to_parents[choices].max() < 1e-12


def test_genes_of_all_layers_are_crossed_with_those_of_layers() -> None:
    everywhere = Gene(parameter="operator", source=None, group=None, component="all")
    cross = _crossovers([everywhere, *GENES], len(GENES) + 1)
    by_depth = cross[2]
    taken = [_taken(by_depth, seed, len(GENES) + 1) for seed in range(30)]
    # The operator comes from the first parent, and any layers may come from the second.
    assert [sum(each[place] for each in taken) > 0 for place in (0, 1, 3, 5, 7)] == [
        *(False, True, True, True, True)
    ]
