"""Promise: weights follow what was measured of the sources as far as it is trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.genome.build import build_genome
from evomerge.genome.prior import Prior, by_part, relative_to_mean
from evomerge.layout import Component, locate
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.space import GenomeSpace

if TYPE_CHECKING:
    from evomerge.genome.genome import Genome
    from evomerge.recipe.prior import PriorKind

EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.{}.mlp.up_proj.weight"
QUERY = "model.layers.{}.self_attn.q_proj.weight"
TENSORS = [EMBEDDING, *(part.format(layer) for part in (UP, QUERY) for layer in range(4))]
TEXTS = CalibrationSettings(texts="texts.txt")
MLP = Component.MLP


def genome(
    trust: Any = None,
    *,
    kind: PriorKind = "sensitivity",
    calibration: CalibrationSettings | None = TEXTS,
    labels: str = "ab",
    **space: Any,
) -> Genome:
    """Two sources, two layer groups; the prior is not measured."""
    prior = {} if trust is None else {"prior": {"kind": kind, "trust": trust}}
    return build_genome(
        base="base",
        sources=[Source(model=label, name=label) for label in labels],
        space=GenomeSpace.model_validate({"layer_groups": 2, **space, **prior}),
        tensors=TENSORS,
        dtype="base",
        seed=0,
        calibration=calibration,
    )


def known(unmeasured: Genome, *relative: dict[Any, float]) -> Genome:
    assert unmeasured.prior is not None
    return replace(unmeasured, prior=replace(unmeasured.prior, relative=relative))


def weights(recipe: MergeRecipe, name: str) -> list[Any]:
    return [recipe.setting("weight", name, locate(name), source) for source in recipe.sources]


def test_parts_are_compared_within_their_component_by_their_mean() -> None:
    measured = {(0, None): 1.0, (1, None): 3.0, (0, MLP): 50.0, (1, MLP): 150.0}
    assert relative_to_mean(measured) == {
        (0, None): 0.5,
        (1, None): 1.5,
        (0, MLP): 0.5,
        (1, MLP): 1.5,
    }


def test_where_nothing_depends_on_a_component_all_its_parts_are_alike() -> None:
    assert relative_to_mean({(0, None): 0.0, (1, None): 0.0}) == {(0, None): 1.0, (1, None): 1.0}


def test_what_is_measured_of_a_part_is_the_mean_over_its_entries_inside_the_layers() -> None:
    sums = {
        EMBEDDING: (1e6, 10),
        UP.format(0): (2.0, 4),
        UP.format(1): (4.0, 8),
        UP.format(3): (1.0, 4),
        QUERY.format(0): (30.0, 2),
    }
    rules = genome(components=["mlp"]).rules
    assert by_part(rules, sums) == {(0, MLP): 0.5, (1, MLP): 0.25, (0, None): 15.0}


def test_a_weight_is_its_gene_times_the_power_of_what_was_measured() -> None:
    relative = {(0, None): 0.5, (1, None): 1.5}
    prior = Prior(trust=0.5, low=-math.inf, high=math.inf, relative=(relative,))
    values = {("weight", 0, 0, None): 0.4, ("weight", 0, 1, None): 0.4, ("density", 0, 0, None): 1}
    # 0.4 times the roots of 0.5 and 1.5.
    assert prior.applied(values, prior.trust) == {
        ("weight", 0, 0, None): 0.28284,
        ("weight", 0, 1, None): 0.4899,
        ("density", 0, 0, None): 1,
    }
    whole = prior.applied(values, 1.0)
    assert list(whole.values()) == [0.2, 0.6, 1]


def test_weights_stay_in_the_range_that_the_operator_allows() -> None:
    prior = Prior(trust=1.0, low=0.0, high=1.0, relative=({(0, None): 1.9, (1, None): 0.1},))
    values = {("weight", 0, 0, None): 0.9, ("weight", 0, 1, None): 0.9}
    assert list(prior.applied(values, prior.trust).values()) == [1.0, 0.09]


def test_below_0_weights_are_small_where_much_was_measured_but_never_without_end() -> None:
    prior = Prior(
        trust=-1.0, low=-math.inf, high=math.inf, relative=({(0, None): 2.0, (1, None): 0.0},)
    )
    values = {("weight", 0, 0, None): 0.4, ("weight", 0, 1, None): 0.4}
    assert list(prior.applied(values, prior.trust).values()) == [0.2, 40.0]


def test_a_recipe_has_the_weights_as_plain_numbers_and_no_texts() -> None:
    found = known(genome(1.0), {(0, None): 0.5, (1, None): 1.5}, {(0, None): 2.0, (1, None): 0.0})
    recipe = found.decode([0.4, 0.4, 0.3, 0.3])
    assert weights(recipe, UP.format(0)) == [0.2, 0.6]
    assert weights(recipe, UP.format(3)) == [0.6, 0.0]
    assert weights(recipe, EMBEDDING) == [0.2, 0.6]  # as its neighbours
    assert recipe.calibration is None


points = st.lists(st.floats(0, 1), min_size=8, max_size=8)
factors = st.fixed_dictionaries(
    {(group, component): st.floats(0, 2) for group in (0, 1) for component in (None, MLP)}
)


@given(point=points, one=factors, other=factors)
def test_trust_of_0_is_no_prior_at_all(
    point: list[float], one: dict[Any, float], other: dict[Any, float]
) -> None:
    plain = digest(genome(calibration=None, components=["mlp"]).decode(point))
    fixed = known(genome(0, components=["mlp"]), one, other)
    assert digest(fixed.decode(point)) == plain
    ranged = known(genome([0, 1], components=["mlp"]), one, other)
    assert digest(ranged.decode([*point, 0.0])) == plain
    assert digest(genome(1, components=["mlp"]).decode(point)) == plain  # not measured


@given(point=points, one=factors, other=factors, trust=st.floats(0, 1))  # of a range
def test_any_trust_gives_a_valid_recipe(
    point: list[float], one: dict[Any, float], other: dict[Any, float], trust: float
) -> None:
    recipe = known(genome([-1, 1], components=["mlp"]), one, other).decode([*point, trust])
    assert MergeRecipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_trust_is_the_last_gene_unless_it_is_fixed() -> None:
    plain, fixed, ranged = genome(), genome(0.5), genome([0.25, 0.75])
    assert fixed.genes == plain.genes == ranged.genes[:-1]
    assert (ranged.genes[-1].parameter, ranged.genes[-1].value(0.5)) == ("trust", 0.5)
    assert ranged.labels()[-1] == {
        "parameter": "trust",
        "source": "all",
        "layers": "all",
        "component": "all",
    }


def test_texts_stay_in_the_recipes_of_operators_that_measure_models() -> None:
    assert genome(0.5, operator="fisher").calibration == TEXTS
    assert genome(calibration=TEXTS).calibration == TEXTS


def test_kinship_needs_no_texts_and_gives_the_genes_of_any_prior() -> None:
    akin = genome([-1, 1], kind="kinship", calibration=None)
    assert akin.genes == genome([-1, 1]).genes
    partly = CalibrationSettings(texts={"a": "a.txt"})
    assert genome(0.5, kind="kinship", calibration=partly).genes == genome(0.5).genes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": None}, "the sensitivity of the sources is measured on texts, and there"),
        ({"operator": "slerp"}, "is about the weights of sources, and slerp has none"),
        ({"fixed": {"weight": 1.0}, "operator": "ties"}, "weight is fixed"),
        (
            {"calibration": CalibrationSettings(texts={"a": "a.txt"})},
            "calibration.texts: has no file for b",
        ),
        (
            {"calibration": CalibrationSettings(texts={"a": "a.txt", "z": "z.txt"})},
            "calibration.texts: 'z' is no source; known: a, b",
        ),
        ({"kind": "kinship", "labels": "a"}, "kinship compares sources, and there is one"),
        ({"kind": "kinship", "operator": "slerp"}, "is about the weights of sources"),
    ],
    ids=[
        "no texts",
        "no weights",
        "fixed weights",
        "no texts of one",
        "texts of nobody",
        "kinship of one",
        "kinship without weights",
    ],
)
def test_a_prior_that_has_nothing_to_say_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        genome(0.5, **changes)


@pytest.mark.parametrize("trust", [-1.1, 1.5, [0.5, 0.2], [0, 2], [0.1], "much", True])
def test_trust_is_a_number_from_minus_1_to_1_or_a_range_of_them(trust: Any) -> None:
    with pytest.raises(ValueError, match=r"prior\.trust"):
        genome(trust)
