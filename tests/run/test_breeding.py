"""Promise: what is bred is a merge recipe of the sources, however many generations it took."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import planted_genome

from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.lineage import MAX_DEPTH, MAX_INNER, ancestry
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.loop.breeding import Individuals
from evomerge.run.loop.candidates import recipe_json
from evomerge.search.contract import Breeding, Finished, Result, StrategySettings
from evomerge.search.strategies import BREEDERS


def child(*parents: int | Breeding, seed: int = 0) -> Breeding:
    return Breeding(operator="evolver", parents=parents, parameters={"mutation": 0.5}, seed=seed)


def test_a_number_is_an_individual_that_exists() -> None:
    individuals = Individuals(planted_genome())
    first = individuals.add(child(0, 1))
    assert individuals.add(2) == first
    source = individuals.add(1)
    assert [each.label for each in source.sources] == ["b"]


def test_sources_take_part_as_models_and_others_as_recipes() -> None:
    individuals = Individuals(planted_genome())
    first = individuals.add(child(0, 1))
    second = individuals.add(child(2, 1, seed=5))
    assert [source.model for source in first.sources] == ["a", "b"]
    assert second.sources[0].recipe == first
    assert second.sources[1].model == "b"
    assert (second.operator, second.parameters, second.seed) == ("evolver", {"mutation": 0.5}, 5)


def test_what_is_bred_for_one_child_only_is_part_of_its_recipe() -> None:
    mean = Individuals(planted_genome()).add(Breeding(operator="linear", parents=(0, child(0, 1))))
    assert mean.sources[1].recipe is not None
    assert mean.sources[1].recipe.operator == "evolver"


def test_parents_are_told_by_their_digests() -> None:
    individuals = Individuals(planted_genome())
    first = individuals.add(child(0, 1))
    assert individuals.parents(child(2, 2)) == (digest(first),)
    sources = individuals.parents((0.5,) * 4)
    assert len(sources) == 2
    assert individuals.parents(child(0, child(1, 0))) == sources


def test_an_individual_may_be_crossed_with_itself() -> None:
    individuals = Individuals(planted_genome())
    twice = individuals.add(child(0, 0))
    assert len({source.label for source in twice.sources}) == 2


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=30, max_size=60))
def test_no_lineage_outgrows_what_a_recipe_may_hold(pairs: list[tuple[int, int]]) -> None:
    individuals = Individuals(planted_genome())
    for number, (first, second) in enumerate(pairs):
        known = number + 2
        recipe = individuals.add(child(first % known, second % known, seed=number))
        assert recipe.depth <= MAX_DEPTH
        assert len(ancestry([recipe])) <= MAX_INNER
        MergeRecipe.model_validate_json(recipe_json(recipe))


@pytest.mark.parametrize("generations", [60])
def test_where_a_lineage_is_full_a_child_is_its_first_parent(generations: int) -> None:
    individuals = Individuals(planted_genome())
    last = individuals.add(child(0, 1))
    for number in range(generations):
        recipe = individuals.add(child(number + 2, 0, seed=number))
        if recipe.depth == last.depth:
            assert recipe == last
        last = recipe
    assert last.depth == MAX_DEPTH


@pytest.mark.parametrize("name", BREEDERS)
def test_operators_take_what_breeders_ask_for(name: str) -> None:
    individuals = Individuals(planted_genome(sources="abcd", texts="texts.txt"))
    settings = StrategySettings(dimension=4, generation=4, seed=1, sources=4)
    strategy = BREEDERS[name](settings)
    with suppress(Finished):
        for number in range(12):
            for proposal in strategy.ask(1):
                check_operator(individuals.add(proposal))
            strategy.tell([Result(fitness=float(number))])


def measured_merge(*parents: int | Breeding) -> Breeding:
    return Breeding(operator="fisher", parents=parents, measured_as=(0, 1))


def test_the_sources_are_measured_in_place_of_their_descendants() -> None:
    individuals = Individuals(planted_genome(texts="texts.txt"))
    first = individuals.add(child(1, 0))
    merged = individuals.add(measured_merge(0, child(2, 0)))
    assert check_operator(merged).name == "fisher"
    assert merged.calibration == CalibrationSettings(texts="texts.txt")
    assert [source.label for source in merged.sources] == ["a", "b"]
    assert [source.measured_as for source in merged.sources] == [None, "b"]
    (descendant,) = merged.inner
    assert descendant.sources[0].recipe == first
    assert descendant.calibration is None


def test_a_source_in_the_place_of_another_is_measured_as_that_one() -> None:
    individuals = Individuals(planted_genome(texts="texts.txt"))
    merged = individuals.add(measured_merge(1, 1))
    assert [source.model for source in merged.sources] == ["b", "b"]
    assert [source.measured_as for source in merged.sources] == ["a", None]
    assert [source.label for source in merged.sources] == ["a", "b"]


def test_the_merge_of_the_sources_themselves_is_a_plain_one() -> None:
    genome = planted_genome(texts="texts.txt")
    assert Individuals(genome).add(measured_merge(0, 1)) == MergeRecipe(
        base=genome.base,
        sources=genome.sources,
        operator="fisher",
        calibration=genome.calibration,
    )


def mean(*parents: int | Breeding) -> Breeding:
    return Breeding(operator="linear", parents=parents)


def shares(recipe: MergeRecipe) -> dict[str, object]:
    return {each.label: each.parameters.get("weight", "even") for each in recipe.sources}


def test_an_average_of_averages_is_one_average_of_the_sources() -> None:
    individuals = Individuals(planted_genome())
    half = individuals.add(mean(1, 0))
    assert shares(half) == {"a": "even", "b": "even"}
    quarter = individuals.add(mean(2, 0))
    assert shares(quarter) == {"a": 0.75, "b": 0.25}
    assert individuals.parents(mean(2, 0)) == (digest(half), digest(individuals.add(0)))
    assert shares(individuals.add(mean(3, 1))) == {"a": 0.375, "b": 0.625}
    assert quarter.depth == 1


def test_the_same_average_is_the_same_recipe_whatever_it_is_made_from() -> None:
    individuals = Individuals(planted_genome())
    half = individuals.add(mean(0, 1))
    first, second = individuals.add(mean(0, 2)), individuals.add(mean(1, 2))
    assert digest(first) != digest(second)
    assert individuals.add(mean(3, 4)) == half
    assert individuals.add(mean(0, 0)) == individuals.add(0)


def test_an_average_of_other_merges_keeps_them_as_they_are() -> None:
    individuals = Individuals(planted_genome())
    point = individuals.add((0.5,) * 4)
    nested = individuals.add(mean(2, 0))
    assert [source.recipe for source in nested.sources] == [point, None]
