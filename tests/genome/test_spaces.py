"""Layer groups by hand, log ranges and shared genes do what they say; old spaces stay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import EMBEDDING, HEAD, LAYERS, QUERY, UP, genome_of, values_of

from evomerge.errors import RecipeError
from evomerge.genome.genes import Gene
from evomerge.genome.layers import group_bounds
from evomerge.layout import Component
from evomerge.operators.registry import operators
from evomerge.recipe.digest import digest
from evomerge.recipe.ranges import Bounds
from evomerge.recipe.space import GenomeSpace

PARTS = (Component.ATTENTION, Component.MLP)
LOG = Bounds(low=0.01, high=3.0, log=True)


@pytest.mark.parametrize(
    ("operator", "start"),
    [("dare_linear", "b616934a"), ("slerp", "ecfa7331"), ("ties", "c4998a36")],
)
def test_points_of_spaces_that_were_there_before_keep_their_digests(
    operator: str, start: str
) -> None:
    genome = genome_of(operator=operator, layer_groups=2, components=PARTS, seed=3)
    point = [index / len(genome.genes) for index in range(len(genome.genes))]
    assert digest(genome.decode(point)).startswith(start)


def test_a_list_gives_the_number_of_layers_of_each_group() -> None:
    recipe = genome_of(sources=1, layer_groups=(1, 3, 2)).decode([0.1, 0.2, 0.3])
    by_layer = [values_of(recipe, UP.format(layer))[0] for layer in range(LAYERS)]
    assert by_layer == [0.1, 0.2, 0.2, 0.2, 0.3, 0.3]
    assert values_of(recipe, EMBEDDING) == (0.1,)
    assert values_of(recipe, HEAD) == (0.3,)


def test_each_layer_may_be_a_group() -> None:
    assert genome_of(layer_groups="each") == genome_of(layer_groups="each")
    assert genome_of(layer_groups="each").genes == genome_of(layer_groups=LAYERS).genes


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_groups_of_a_list_follow_one_another(sizes: list[int]) -> None:
    bounds = group_bounds(sum(sizes), tuple(sizes))
    assert [end - start for start, end in bounds] == sizes
    assert [layer for start, end in bounds for layer in range(start, end)] == [*range(sum(sizes))]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"layer_groups": (2, 3)},
            r"genome\.layer_groups: \[2, 3\] add up to 5 layers, but the model has 6",
        ),
        (
            {"layer_groups": "each", "tensors": [HEAD]},
            r"genome\.layer_groups: each, but the model has 0 layers",
        ),
        (
            {"ranges": {"weight": Bounds(low=0.5, high=0.50004, log=True)}},
            r"genome\.ranges\.weight: is narrower than the 5 digits",
        ),
        (
            {"shared": {"scale": ("layers",)}},
            r"genome\.shared\.scale: is not searched, .*searched: weight$",
        ),
        (
            {"operator": "ties", "fixed": {"density": 0.5}, "shared": {"density": ("layers",)}},
            r"genome\.shared\.density: is not searched",
        ),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        genome_of(**space)


def log_gene(low: float, high: float) -> Gene:
    return Gene(
        parameter="scale", source=None, group=0, component=None, low=low, high=high, log=True
    )


@pytest.mark.parametrize(
    ("coordinate", "value"),
    [(0.0, 0.01), (0.25, 0.1), (0.5, 1.0), (0.75, 10.0), (1.0, 100.0), (0.125, 0.031623)],
)
def test_orders_of_magnitude_are_as_far_apart_as_one_another(
    coordinate: float, value: float
) -> None:
    assert log_gene(0.01, 100.0).value(coordinate) == value


@given(
    low=st.floats(1e-9, 1.0),
    factor=st.floats(1.001, 1e9),
    coordinates=st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_log_values_keep_five_digits_of_any_size_inside_the_range(
    low: float, factor: float, coordinates: list[float]
) -> None:
    gene = log_gene(low, low * factor)
    first, second = sorted(coordinates)
    assert gene.low <= gene.value(first) <= gene.value(second) <= gene.high
    exact = low * math.exp(first * math.log(gene.high / low))
    assert gene.value(first) == pytest.approx(exact, rel=6e-5)


def test_a_range_may_be_searched_by_orders_of_magnitude() -> None:
    given_range = {"scale": LOG}
    (gene,) = genome_of(fixed={"weight": 1.0}, ranges=given_range, layer_groups=1).genes
    assert gene.value(0.5) == round(math.sqrt(0.03), 5)


def test_an_operator_s_own_range_may_be_logarithmic() -> None:
    temperature = operators()["sens_merging"].parameters["temperature"]
    assert str(temperature.search) == "[0.01, 3] log"


def test_a_pair_and_bounds_mean_the_same() -> None:
    bounds = Bounds(low=0.2, high=0.9)
    pair, named = (genome_of(ranges={"weight": each}) for each in ((0.2, 0.9), bounds))
    assert pair.genes == named.genes
    assert GenomeSpace(ranges={"weight": (0.2, 0.9)}).model_dump()["ranges"] == {
        "weight": (0.2, 0.9)
    }


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ((), 3 * 2 * 3),
        (("sources",), 2 * 3),
        (("layers",), 3 * 3),
        (("components",), 3 * 2),
        (("sources", "layers"), 3),
        (("sources", "components"), 2),
        (("layers", "components"), 3),
        (("sources", "layers", "components"), 1),
    ],
)
def test_a_shared_parameter_has_one_gene_for_what_shares_it(
    axes: tuple[str, ...], count: int
) -> None:
    space = {"operator": "ties", "layer_groups": 2, "components": PARTS}
    genome = genome_of(sources=3, shared={"density": axes}, **space)
    densities = [gene for gene in genome.genes if gene.parameter == "density"]
    assert len(densities) == count
    assert [g for g in genome.genes if g.parameter == "weight"] == [
        g for g in genome_of(sources=3, **space).genes if g.parameter == "weight"
    ]


@pytest.mark.parametrize(
    ("axes", "alike"),
    [
        ("sources", lambda layer, part, source: (layer // 3, part)),
        ("layers", lambda layer, part, source: (part, source)),
        ("components", lambda layer, part, source: (layer // 3, source)),
    ],
)
def test_what_shares_a_gene_has_one_value_and_everything_else_its_own(
    axes: str, alike: Any
) -> None:
    genome = genome_of(
        operator="ties", layer_groups=2, components=PARTS, shared={"density": (axes,)}
    )
    recipe = genome.decode([index / len(genome.genes) for index in range(len(genome.genes))])
    found: dict[object, set[float]] = {}
    for layer in range(LAYERS):
        for part in (QUERY, UP):
            for source, value in enumerate(values_of(recipe, part.format(layer), "density")):
                found.setdefault(alike(layer, part, source), set()).add(value)
    assert all(len(values) == 1 for values in found.values())
    assert len(set.union(*found.values())) == len(found)


def test_shared_genes_are_labelled_by_all_that_they_drive() -> None:
    genome = genome_of(
        operator="ties",
        layer_groups=2,
        components=PARTS,
        shared={"density": ("sources", "layers", "components"), "weight": ("layers",)},
    )
    *weights, density = genome.labels()
    assert density == {
        "parameter": "density",
        "source": "all",
        "layers": "all",
        "component": "all",
    }
    assert [label["layers"] for label in weights] == ["all"] * 6
