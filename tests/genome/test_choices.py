"""Genes that choose: the operator, and which sources take part at all."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import genome_of

from evomerge.errors import RecipeError
from evomerge.genome.genes import KEPT, NOTHING, OPERATOR, POST, PRESENCE, Gene
from evomerge.layout import Component
from evomerge.operators.registry import find_operator
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.ranges import Bounds

if TYPE_CHECKING:
    from evomerge.genome.genome import Genome

TEXTS = CalibrationSettings(texts={f"m{number}": f"{number}.txt" for number in range(4)})
GENOMES = {
    "operators": genome_of(operator=("task_arithmetic", "ties", "dare_ties"), sources=3),
    "operators with ranges": genome_of(
        operator=("ties", "dare_ties", "della"),
        ranges={"density": (0.3, 0.9), "epsilon": (0.01, 0.1)},
        fixed={"normalize": False, "rescale": "none"},
    ),
    "operators with ranges of their own": genome_of(operator=("ties", "della", "slerp")),
    "dropped sources": genome_of(drop_sources=True, sources=4, layer_groups=1),
    "dropped sources of an operator of two": genome_of(
        operator="slerp", drop_sources=True, sources=4
    ),
    "different numbers of sources": genome_of(
        operator=("slerp", "linear", "karcher"), drop_sources=True, sources=3
    ),
    "shared genes": genome_of(
        operator=("linear", "ties"),
        drop_sources=True,
        components=(Component.MLP,),
        shared={"weight": ("sources",), "density": ("layers", "components")},
        sources=3,
    ),
    "measured operators": genome_of(
        operator=("sens_merging", "fisher", "task_arithmetic"),
        drop_sources=True,
        ranges={"temperature": Bounds(low=0.01, high=3.0, log=True)},
        calibration=TEXTS,
        sources=4,
        layer_groups=2,
    ),
    "an operator on the merge": genome_of(
        operator=("slerp", "linear"),
        drop_sources=True,
        post="aim",
        ranges={"omega": (0.2, 0.6)},
        calibration=CalibrationSettings(texts="texts.txt"),
        sources=3,
    ),
    "an operator on one that is measured": genome_of(
        operator="fisher",
        post="aim",
        layer_groups=1,
        calibration=CalibrationSettings(texts={"m0": "0", "m1": "1", "base": "b"}),
    ),
}
every_genome = pytest.mark.parametrize("genome", GENOMES.values(), ids=GENOMES)


def points_of(genome: Genome) -> st.SearchStrategy[list[float]]:
    count = len(genome.genes)
    return st.lists(st.floats(0, 1), min_size=count, max_size=count)


def point_with(genome: Genome, operator: str | None, kept: set[int]) -> list[float]:
    """A point that chooses an operator and sources."""

    def coordinate(gene: Gene) -> float:
        if gene.parameter == OPERATOR:
            return gene.middle(operator or "")
        if gene.parameter == POST:
            return 0.0
        if gene.parameter == PRESENCE:
            return 0.75 if gene.source in kept else 0.25
        return 0.5

    return [coordinate(gene) for gene in genome.genes]


def merged(recipe: MergeRecipe) -> list[str]:
    return [source.label for source in recipe.sources]


@every_genome
@given(data=st.data())
@settings(max_examples=25)
def test_every_point_is_a_valid_recipe(genome: Genome, data: st.DataObject) -> None:
    point = data.draw(points_of(genome))
    recipe = genome.decode(point)
    assert check_operator(recipe).name in {*genome.space.operators, genome.space.post}
    assert MergeRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    recipe = recipe.sources[0].recipe or recipe
    assert recipe.operator in genome.space.operators
    assert merged(recipe) == [f"m{index}" for index in genome.taken(point)]


@every_genome
@given(data=st.data())
@settings(max_examples=25)
def test_genes_that_have_no_say_change_nothing(genome: Genome, data: st.DataObject) -> None:
    point, other = data.draw(points_of(genome)), data.draw(points_of(genome))
    active = genome.active(point)
    moved = [p if a else o for p, o, a in zip(point, other, active, strict=True)]
    assert digest(genome.decode(moved)) == digest(genome.decode(point))


@every_genome
@given(data=st.data())
@settings(max_examples=15)
def test_genes_that_have_a_say_change_the_recipe(genome: Genome, data: st.DataObject) -> None:
    point = data.draw(points_of(genome))
    before = digest(genome.decode(point))
    for index, (gene, active) in enumerate(zip(genome.genes, genome.active(point), strict=True)):
        if gene.choices or not active:
            continue
        moved = [*point]
        moved[index] = 0.1 if point[index] > 0.5 else 0.9
        assert digest(genome.decode(moved)) != before, gene


@every_genome
def test_every_choice_can_be_reached(genome: Genome) -> None:
    optional = [gene.source for gene in genome.genes if gene.parameter == PRESENCE]
    everyone = range(len(genome.sources))
    for name in genome.space.operators:
        least, most = find_operator(name).sources
        for count in range(least, (most or len(everyone)) + 1) if optional else everyone[-1:]:
            for kept in itertools.combinations(everyone, count):
                recipe = genome.decode(point_with(genome, name, set(kept)))
                assert recipe.operator == name
                assert merged(recipe) == [f"m{i}" for i in (kept if optional else everyone)]


@every_genome
@given(data=st.data())
@settings(max_examples=15)
def test_where_in_its_part_of_the_coordinate_an_operator_lies_does_not_matter(
    genome: Genome, data: st.DataObject
) -> None:
    point = data.draw(points_of(genome))
    snapped = [
        gene.middle(gene.choice(c)) if gene.parameter == OPERATOR else c
        for gene, c in zip(genome.genes, point, strict=True)
    ]
    assert digest(genome.decode(snapped)) == digest(genome.decode(point))


def test_a_list_of_one_operator_is_that_operator() -> None:
    one, listed = genome_of(operator="ties"), genome_of(operator=("ties",))
    assert listed.genes == one.genes
    point = [0.3] * len(one.genes)
    assert digest(listed.decode(point)) == digest(one.decode(point))


def test_a_choice_cuts_the_coordinate_into_equal_parts() -> None:
    gene = Gene(parameter=OPERATOR, source=None, group=None, component="all", choices=("a", "b"))
    assert [gene.choice(c) for c in (0.0, 0.49999, 0.5, 1.0)] == ["a", "a", "b", "b"]
    assert [gene.middle(choice) for choice in gene.choices] == [0.25, 0.75]


def test_operators_share_the_genes_of_parameters_that_they_search_alike() -> None:
    genome = genome_of(operator=("task_arithmetic", "ties", "dare_ties"), layer_groups=1)
    found = [(gene.parameter, gene.source, gene.operators) for gene in genome.genes]
    assert found == [
        ("operator", None, ()),
        ("weight", 0, ()),
        ("weight", 1, ()),
        ("density", 0, ("ties", "dare_ties")),
        ("density", 1, ("ties", "dare_ties")),
    ]


def test_parameters_that_operators_search_differently_have_genes_of_their_own() -> None:
    genome = genome_of(operator=("ties", "della"), layer_groups=1, sources=1)
    densities = [gene for gene in genome.genes if gene.parameter == "density"]
    assert [(each.operators, each.low, each.high) for each in densities] == [
        (("ties",), 0.1, 1.0),
        (("della",), 0.2, 0.8),
    ]
    labels = [label["parameter"] for label in genome.labels()]
    assert labels[:3] == ["operator", "weight", "density of ties"]
    assert "density of della" in labels


def test_a_range_in_the_recipe_is_that_of_all_operators() -> None:
    genome = genome_of(operator=("ties", "della"), ranges={"density": (0.5, 0.9)}, sources=1)
    assert {g.operators for g in genome.genes if g.parameter == "density"} == {()}


def test_fixed_parameters_are_given_to_the_operators_that_have_them() -> None:
    genome = genome_of(operator=("task_arithmetic", "ties"), fixed={"density": 0.4})
    plain, trimmed = (
        genome.decode(point_with(genome, name, set())) for name in genome.space.operators
    )
    assert plain.parameters == {}
    assert trimmed.parameters == {"density": 0.4}


@pytest.mark.parametrize(
    ("coordinates", "kept"),
    [
        ((0.9, 0.1, 0.6), ["m0", "m2"]),
        ((0.5, 0.49999, 0.0), ["m0"]),
        ((0.1, 0.3, 0.2), ["m1"]),
        ((0.2, 0.2, 0.2), ["m0"]),
        ((1.0, 1.0, 1.0), ["m0", "m1", "m2"]),
    ],
)
def test_sources_below_one_half_are_dropped_but_never_all(
    coordinates: tuple[float, ...], kept: list[str]
) -> None:
    genome = genome_of(sources=3, drop_sources=True, layer_groups=1)
    assert merged(genome.decode([*coordinates, 0.5, 0.5, 0.5])) == kept


@pytest.mark.parametrize(
    ("coordinates", "kept"),
    [((0.6, 0.9, 0.7), ["m1", "m2"]), ((0.3, 0.1, 0.4), ["m0", "m2"])],
)
def test_as_many_sources_stay_as_the_operator_takes(
    coordinates: tuple[float, ...], kept: list[str]
) -> None:
    genome = genome_of(operator="slerp", sources=3, drop_sources=True, layer_groups=1)
    assert merged(genome.decode([*coordinates, 0.5])) == kept


def test_what_is_done_to_a_merge_is_a_recipe_around_it() -> None:
    genome = GENOMES["an operator on one that is measured"]
    off, on = (genome.decode((choice, 0.5, 0.75)) for choice in (0.25, 0.75))
    assert (off.operator, on.operator) == ("fisher", "aim")
    assert on.sources[0].recipe == off.model_copy(update={"dtype": "float32"})
    assert on.calibration == CalibrationSettings(texts={"base": "b"})
    assert on.dtype == off.dtype == "base"
    assert genome.labels()[0]["choices"] == [NOTHING, "aim"]


def test_parameters_that_only_the_last_operator_has_are_its_own() -> None:
    genome = genome_of(
        operator="linear",
        post="aim",
        ranges={"omega": (0.2, 0.6)},
        fixed={"weight": 0.5, "scale": 0.9},
        calibration=CalibrationSettings(texts="texts.txt"),
        layer_groups=1,
    )
    assert [(gene.parameter, gene.operators) for gene in genome.genes] == [
        (POST, ()),
        ("omega", ("aim",)),
    ]
    recipe = genome.decode((0.75, 0.5))
    assert recipe.parameters == {"scale": 0.9, "omega": 0.4}
    assert recipe.sources[0].recipe is not None
    assert recipe.sources[0].recipe.parameters == {"weight": 0.5}
    assert genome.active((0.25, 0.5)) == [True, False]


def test_texts_of_dropped_sources_are_no_part_of_the_recipe() -> None:
    genome = GENOMES["measured operators"]
    recipe = genome.decode(point_with(genome, "fisher", {1, 3}))
    assert recipe.calibration == CalibrationSettings(texts={"m1": "1.txt", "m3": "3.txt"})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"operator": ("ties", "tis")},
            r"unknown operator 'tis'\. Did you mean 'ties'\?",
        ),
        (
            {"operator": ("task_arithmetic", "linear"), "ranges": {"density": (0.1, 1)}},
            r"^genome\.ranges\.density: task_arithmetic has only: .*; linear has only: [^\n]*$",
        ),
        (
            {"operator": ("linear", "dare_ties"), "fixed": {"density": 2}},
            r"^genome\.fixed\.density: dare_ties: 2 is outside \[0, 1\]$",
        ),
        (
            {"operator": ("linear", "slerp"), "sources": 3},
            r"^operator: slerp takes 2 sources, found 3$",
        ),
        (
            {"operator": ("linear", "fisher")},
            r"^calibration: is missing; fisher needs the fisher",
        ),
        (
            {"operator": "slerp", "drop_sources": True},
            r"^genome\.drop_sources: there are 2 sources, none of which slerp can do without$",
        ),
        (
            {"drop_sources": True, "sources": 1},
            r"genome\.drop_sources: there are 1 sources",
        ),
        (
            {"post": "aim"},
            r"^calibration: is missing; aim needs the activation",
        ),
        (
            {
                "operator": "fisher",
                "post": "aim",
                "calibration": CalibrationSettings(texts={"m0": "0", "m1": "1"}),
            },
            r"^calibration\.texts: has no file for base, which aim measures$",
        ),
        (
            {"post": "aim", "ranges": {"omga": (0, 1)}},
            r"^genome\.ranges\.omga: task_arithmetic has only: .*; aim has only: omega$",
        ),
        (
            {"operator": "fisher", "calibration": CalibrationSettings(texts={"mo": "x.txt"})},
            r"^calibration\.texts: 'mo' is no source; known: base, m0, m1$",
        ),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        genome_of(**space)


def test_the_mean_is_what_most_choose_and_counts_only_genes_that_had_a_say() -> None:
    genome = genome_of(sources=2, drop_sources=True, layer_groups=1)
    points = [(0.9, 0.1, 0.2, 0.7), (0.6, 0.9, 0.4, 0.5), (0.8, 0.2, 0.6, 0.9)]
    assert genome.mean(points) == (0.75, 0.25, pytest.approx(0.4), 0.5)


def test_the_mean_keeps_the_sources_that_the_recipes_merge_whatever_was_asked_for() -> None:
    genome = genome_of(operator="slerp", sources=3, drop_sources=True, layer_groups=1)
    points = [(0.6, 0.9, 0.7, 0.5), (0.1, 0.2, 0.3, 0.5), (0.9, 0.8, 0.7, 0.5)]
    assert [genome.taken(point) for point in points] == [(1, 2), (1, 2), (0, 1)]
    assert genome.taken(genome.mean(points)) == (1, 2)


def test_of_equally_frequent_choices_the_mean_makes_that_of_the_first_point() -> None:
    genome = genome_of(operator=("ties", "linear"), sources=1, layer_groups=1)
    density, weight = 0.5, 0.5
    assert genome.mean([(0.8, weight, density), (0.3, weight, density)])[0] == 0.75


def test_without_choices_the_mean_is_the_mean() -> None:
    genome = genome_of(layer_groups=1)
    assert genome.mean([(0.0, 0.25), (0.5, 0.75)]) == (0.25, 0.5)


def test_labels_of_choices_say_what_there_is_to_choose() -> None:
    genome = genome_of(operator=("ties", "linear"), drop_sources=True, layer_groups=1)
    operator, first, *_ = genome.labels()
    assert operator["choices"] == ["ties", "linear"]
    assert (first["parameter"], first["source"], first["choices"]) == (
        "takes part",
        "m0",
        ["no", KEPT],
    )
