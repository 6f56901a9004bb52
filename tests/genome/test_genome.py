"""Every point of the unit cube is a valid merge recipe, and every gene changes some tensor."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LAYERS,
    NORM,
    ODD,
    QUERY,
    TENSORS,
    UP,
    genome_of,
    values_of,
)

from evomerge.errors import RecipeError
from evomerge.genome.build import build_genome
from evomerge.genome.genes import Gene
from evomerge.genome.layers import layer_bounds
from evomerge.layout import Component
from evomerge.operators.registry import operators
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe, Rule, Source
from evomerge.recipe.space import GenomeSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.genome.genome import Genome


TIED = [name for name in TENSORS if name != HEAD]


def _everything(recipe: MergeRecipe) -> list[object]:
    """All values of all tensors."""
    names = _parameter_names(recipe)
    return [values_of(recipe, tensor, name) for tensor in TENSORS for name in names]


def _parameter_names(recipe: MergeRecipe) -> list[str]:
    return sorted(operators()[recipe.operator].parameters)


def _steps(genome: Genome) -> list[float]:
    """A point whose coordinates all differ: gene number i is at i / count."""
    return [index / len(genome.genes) for index in range(len(genome.genes))]


GENOMES = {
    "task_arithmetic": genome_of(),
    "one group": genome_of(layer_groups=1),
    "a group per layer": genome_of(layer_groups=LAYERS),
    "linear": genome_of(operator="linear", sources=3),
    "ties": genome_of(operator="ties", sources=3),
    "dare": genome_of(operator="dare_ties", ranges={"density": (0.3, 0.5)}),
    "slerp": genome_of(operator="slerp"),
    "scale": genome_of(ranges={"scale": (0.5, 2.0), "weight": (-1.0, 1.0)}),
    "fixed": genome_of(operator="ties", fixed={"density": 0.3, "normalize": False}),
    "components": genome_of(components=(Component.ATTENTION, Component.MLP)),
    "all components but one": genome_of(components=tuple(Component)[1:], layer_groups=2),
    "all components but one, one group": genome_of(
        components=tuple(Component)[:-1], layer_groups=1
    ),
    "all components": genome_of(components=tuple(Component), layer_groups=2),
    "tied": genome_of(tensors=TIED, components=(Component.HEAD, Component.MLP)),
}
every_genome = pytest.mark.parametrize("genome", GENOMES.values(), ids=GENOMES)


@every_genome
@given(data=st.data())
@settings(max_examples=25)
def test_every_point_is_a_valid_recipe(genome: Genome, data: st.DataObject) -> None:
    coordinate = st.floats(0, 1)
    point = data.draw(st.lists(coordinate, min_size=len(genome.genes), max_size=len(genome.genes)))
    recipe = genome.decode(point)
    assert check_operator(recipe).name == genome.space.operator
    assert MergeRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert digest(genome.decode(point)) == digest(recipe)
    for gene in genome.genes:
        values = [v for name in TENSORS for v in values_of(recipe, name, gene.parameter)]
        bounds = [(g.low, g.high) for g in genome.genes if g.parameter == gene.parameter]
        assert all(bounds[0][0] <= value <= bounds[0][1] for value in values)


@every_genome
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_the_corners_are_the_ends_of_the_ranges(genome: Genome, corner: float) -> None:
    recipe = genome.decode([corner] * len(genome.genes))
    for gene in genome.genes:
        end = gene.high if corner else gene.low
        assert {v for n in TENSORS for v in values_of(recipe, n, gene.parameter)} == {end}


@every_genome
def test_every_gene_changes_some_tensor(genome: Genome) -> None:
    middle = [0.5] * len(genome.genes)
    for base in (middle, _steps(genome)):
        before = _everything(genome.decode(base))
        for index in range(len(genome.genes)):
            moved = [*base]
            moved[index] = 0.987
            assert _everything(genome.decode(moved)) != before, genome.genes[index]


@every_genome
def test_a_gene_changes_only_what_it_drives(genome: Genome) -> None:
    point = _steps(genome)
    before = genome.decode(point)
    for index, gene in enumerate(genome.genes):
        moved = [*point]
        moved[index] = 0.987
        after = genome.decode(moved)
        for other in {each.parameter for each in genome.genes} - {gene.parameter}:
            assert _settings(after, other) == _settings(before, other)
        if gene.source is not None:
            rest = [i for i in range(len(genome.sources)) if i != gene.source]
            assert all(after.sources[i] == before.sources[i] for i in rest)


def _settings(recipe: MergeRecipe, parameter: str) -> list[object]:
    return [values_of(recipe, name, parameter) for name in TENSORS]


def test_a_point_of_another_dimension_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        genome_of().decode([0.5] * 9)


def test_there_is_a_gene_per_source_and_group() -> None:
    genes = genome_of(sources=3, layer_groups=2).genes
    found = [(gene.source, gene.group) for gene in genes]
    assert found == list(itertools.product(range(3), range(2)))


def test_a_parameter_that_all_sources_share_has_one_gene_per_group() -> None:
    genes = genome_of(operator="slerp", layer_groups=3).genes
    assert [(gene.parameter, gene.source) for gene in genes] == [("t", None)] * 3


def test_weight_and_density_are_searched_and_the_scale_only_when_asked_for() -> None:
    plain = genome_of(operator="ties")
    scaled = genome_of(operator="ties", ranges={"scale": (0.5, 1.5)})
    assert {gene.parameter for gene in plain.genes} == {"weight", "density"}
    assert {gene.parameter for gene in scaled.genes} == {"weight", "density", "scale"}


@pytest.mark.parametrize("name", ["weight", "density"])
def test_ranges_are_the_operator_s_own_unless_given(name: str) -> None:
    search = operators()["ties"].parameters[name].search
    assert search is not None
    own, given_range = genome_of(operator="ties"), {name: (0.25, 0.75)}
    assert _range(own, name) == {(search.low, search.high)}
    assert _range(genome_of(operator="ties", ranges=given_range), name) == {(0.25, 0.75)}


def _range(genome: Genome, parameter: str) -> set[tuple[float, float]]:
    return {(gene.low, gene.high) for gene in genome.genes if gene.parameter == parameter}


def test_fixed_parameters_are_in_every_recipe_and_have_no_genes() -> None:
    genome = GENOMES["fixed"]
    recipe = genome.decode(_steps(genome))
    assert {gene.parameter for gene in genome.genes} == {"weight"}
    assert recipe.parameters == {"density": 0.3, "normalize": False}


def test_values_are_rounded_to_five_decimals() -> None:
    assert _gene(0.0, 1.0).value(1 / 3) == 0.33333


@pytest.mark.parametrize("coordinate", [0.0, 1.0])
def test_rounding_does_not_leave_the_range(coordinate: float) -> None:
    low, high = 0.123454, 0.765436
    assert _gene(low, high).value(coordinate) == (high if coordinate else low)


def _gene(low: float, high: float) -> Gene:
    return Gene(parameter="weight", source=0, group=0, component=None, low=low, high=high)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_equal_values_are_written_as_one_number(groups: int) -> None:
    genome = genome_of(layer_groups=groups, components=(Component.MLP, Component.HEAD))
    recipe = genome.decode([0.25] * len(genome.genes))
    assert [source.parameters for source in recipe.sources] == [{"weight": 0.25}] * 2


def test_a_tied_head_has_no_gene() -> None:
    genome = genome_of(tensors=TIED, sources=1, layer_groups=1, components=(Component.HEAD,))
    assert [gene.component for gene in genome.genes] == [None]


def test_parts_that_the_model_lacks_have_neither_genes_nor_rules() -> None:
    tensors = [QUERY.format(0), QUERY.format(1), UP.format(2), UP.format(3)]
    genome = genome_of(tensors=tensors, sources=1, layer_groups=2, components=tuple(Component))
    halves = [(0, Component.ATTENTION), (1, Component.MLP)]
    assert [(gene.group, gene.component) for gene in genome.genes] == halves
    rules = genome.decode([0.25, 0.75]).sources[0].parameters["weight"]
    assert rules == (
        Rule(value=0.25, layers=(0, 2), component=Component.ATTENTION),
        Rule(value=0.75, layers=(2, 4), component=Component.MLP),
    )


def test_attention_outside_the_layers_goes_with_that_of_the_last_group() -> None:
    shared = "encoder.relative_attention_bias.weight"
    genome = genome_of(
        tensors=[*TENSORS, shared], sources=1, layer_groups=2, components=(Component.ATTENTION,)
    )
    recipe = genome.decode([0.1, 0.2, 0.3, 0.4])
    assert values_of(recipe, shared) == values_of(recipe, QUERY.format(LAYERS - 1)) == (0.3,)


def test_zero_has_one_sign() -> None:
    assert math.copysign(1, _gene(-1.0, 1.0).value(0.4999999)) == 1


def test_genes_drive_the_layers_of_their_group() -> None:
    genome = genome_of(sources=1, layer_groups=3)
    recipe = genome.decode([0.1, 0.2, 0.3])
    by_layer = [values_of(recipe, UP.format(layer))[0] for layer in range(LAYERS)]
    assert by_layer == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


@pytest.mark.parametrize(
    ("name", "weight"),
    [(EMBEDDING, 0.1), (FINAL_NORM, 0.3), (HEAD, 0.3), ("model.oddity.weight", 0.3)],
)
def test_tensors_outside_the_layers_go_with_the_first_or_last_group(
    name: str, weight: float
) -> None:
    recipe = genome_of(sources=1, layer_groups=3).decode([0.1, 0.2, 0.3])
    assert values_of(recipe, name) == (weight,)


@pytest.mark.parametrize("component", [Component.EMBEDDING, Component.HEAD])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_component_outside_the_layers_has_a_single_gene(
    component: Component, groups: int
) -> None:
    genome = genome_of(sources=1, layer_groups=groups, components=(component,))
    (index,) = [i for i, gene in enumerate(genome.genes) if gene.component is component]
    point = [0.5] * len(genome.genes)
    point[index] = 0.9
    recipe = genome.decode(point)
    changed = [name for name in TENSORS if values_of(recipe, name) != (0.5,)]
    assert changed == [EMBEDDING if component is Component.EMBEDDING else HEAD]


@pytest.mark.parametrize("component", [Component.EMBEDDING, Component.HEAD])
def test_a_component_outside_the_layers_has_a_single_rule(component: Component) -> None:
    genome = genome_of(sources=1, layer_groups=3, components=(component,))
    rules = genome.decode(_steps(genome)).sources[0].parameters["weight"]
    assert isinstance(rules, tuple)
    assert [rule.layers for rule in rules if rule.component is component] == [None]


@pytest.mark.parametrize(
    ("component", "tensor"),
    [
        (Component.ATTENTION, QUERY),
        (Component.MLP, UP),
        (Component.NORM, NORM),
        (Component.OTHER, ODD),
    ],
)
def test_a_component_inside_the_layers_has_a_gene_per_group(
    component: Component, tensor: str
) -> None:
    genome = genome_of(sources=1, layer_groups=2, components=(component,))
    for gene, index in zip(genome.genes, range(len(genome.genes)), strict=True):
        if gene.component is not component:
            continue
        point = [0.5] * len(genome.genes)
        point[index] = 0.9
        recipe = genome.decode(point)
        changed = {name for name in TENSORS if values_of(recipe, name) != (0.5,)}
        layers = range(*layer_bounds(LAYERS, 2)[gene.group])
        inside = {tensor.format(layer) for layer in layers}
        assert changed - {FINAL_NORM} == inside


def test_the_final_norm_goes_with_the_norms_of_the_last_group() -> None:
    genome = genome_of(sources=1, layer_groups=2, components=(Component.NORM,))
    recipe = genome.decode([0.1, 0.2, 0.3, 0.4])
    assert [gene.component for gene in genome.genes] == [Component.NORM, None] * 2
    assert values_of(recipe, FINAL_NORM) == values_of(recipe, NORM.format(LAYERS - 1)) == (0.3,)
    assert values_of(recipe, HEAD) == values_of(recipe, UP.format(LAYERS - 1)) == (0.4,)


@given(groups=st.integers(1, 80), more=st.integers(0, 200))
@settings(max_examples=200)
def test_layers_are_cut_evenly(groups: int, more: int) -> None:
    layers = groups + more
    bounds = layer_bounds(layers, groups)
    lengths = [end - start for start, end in bounds]
    assert len(bounds) == groups
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == layers
    assert math.floor(layers / groups) <= min(lengths)
    assert max(lengths) <= math.ceil(layers / groups)


def test_recipes_carry_base_sources_dtype_and_seed() -> None:
    genome = genome_of(operator="dare_linear", seed=11)
    recipe = genome.decode([0.5] * len(genome.genes))
    assert (recipe.base, recipe.dtype, recipe.seed) == ("base", "base", 11)
    assert [source.model for source in recipe.sources] == ["m0", "m1"]


def _build(sources: Sequence[Source], **space: Any) -> None:
    build_genome(
        base="base",
        sources=sources,
        space=GenomeSpace(**space),
        tensors=TENSORS,
        dtype="base",
        seed=0,
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"operator": "tis"}, r"unknown operator 'tis'\. Did you mean 'ties'\?"),
        ({"layer_groups": 7}, r"genome\.layer_groups: 7, but the model has 6 layers"),
        (
            {"components": ("mlp", "norm", "mlp")},
            r"genome\.components: mlp is listed twice",
        ),
        ({"ranges": {"wight": (0, 1)}}, r"genome\.ranges\.wight: task_arithmetic has only: wei"),
        ({"fixed": {"density": 1}}, r"genome\.fixed\.density: task_arithmetic has only: weight, "),
        (
            {"operator": "ties", "ranges": {"density": (0, 2)}},
            r"genome\.ranges\.density: 2 is outside \[0, 1\]",
        ),
        (
            {"operator": "ties", "ranges": {"density": (-1, 1)}},
            r"genome\.ranges\.density: -1 is outside \[0, 1\]",
        ),
        ({"ranges": {"normalize": (0, 1)}}, r"genome\.ranges\.normalize: is not a number"),
        (
            {"operator": "dare_ties", "ranges": {"rescale": (0, 1)}},
            r"genome\.ranges\.rescale: is not a number",
        ),
        (
            {"ranges": {"weight": (0.5, 0.500001)}},
            r"genome\.ranges\.weight: is narrower than the 5 decimals that are kept of a value",
        ),
        (
            {"operator": "ties", "fixed": {"density": 1.5}},
            r"genome\.fixed\.density: 1\.5 is outside \[0, 1\]",
        ),
        ({"fixed": {"normalize": 1.0}}, r"genome\.fixed\.normalize: expected true or false"),
        (
            {"fixed": {"weight": 0.5}},
            r"genome: every parameter is fixed, so there is nothing to search",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_space_that_does_not_fit_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _build([Source(model="a"), Source(model="b")], **space)


def test_a_number_of_sources_that_the_operator_does_not_take_is_refused() -> None:
    with pytest.raises(RecipeError, match="slerp takes 2 sources, found 3"):
        _build([Source(model=name) for name in "abc"], operator="slerp")


def test_parameters_of_a_source_are_refused_because_the_search_would_replace_them() -> None:
    sources = [Source(model="a"), Source(model="b", parameters={"weight": 0.5})]
    with pytest.raises(RecipeError, match=r"sources\.1\.parameters: gives weight, which a search"):
        _build(sources)
