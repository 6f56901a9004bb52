"""Promise: steps follow what was measured as far as they are told to, and are as long in all."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.genome.build import build_genome
from evomerge.genome.steps import FARTHEST, scales, step_scales
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import Source
from evomerge.recipe.space import GenomeSpace

if TYPE_CHECKING:
    from evomerge.genome.genome import Genome

UNEVEN = {(0, None): 0.4, (1, None): 1.6}
"""Four times as much depends on the second part as on the first."""
EVEN = {(0, None): 1.0, (1, None): 1.0}


def measured(*relative: dict[Any, float], steps: float = -0.5, **space: Any) -> Genome:
    """Two sources and two layer groups, of which something was measured."""
    genome = build_genome(
        base="base",
        sources=[Source(model="a", name="a"), Source(model="b", name="b")],
        space=GenomeSpace.model_validate(
            {"layer_groups": 2, "prior": {"kind": "fisher", "steps": steps}, **space}
        ),
        tensors=[f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)],
        dtype="base",
        seed=0,
        calibration=CalibrationSettings(texts="texts.txt"),
    )
    assert genome.prior is not None
    return replace(genome, prior=replace(genome.prior, relative=relative))


def test_a_step_is_the_power_of_what_was_measured() -> None:
    # The squares of the inverse roots, 1 / 4, 1 and 4, have the mean 7 / 4.
    expected = [7**-0.5, (4 / 7) ** 0.5, (16 / 7) ** 0.5]
    assert scales([4.0, 1.0, 0.25], -0.5) == pytest.approx(expected)
    assert scales([4.0, 1.0, 0.25], 0.5) == pytest.approx(expected[::-1])


def test_no_gene_stands_still_and_none_leaps() -> None:
    assert scales([1e9, 0.0], -1) == scales([FARTHEST, 1 / FARTHEST], -1)
    assert scales([0.0, 0.0], -1) == (1, 1)


@given(relative=st.lists(st.floats(0, 100), min_size=1, max_size=20), power=st.floats(-1, 1))
def test_all_steps_together_are_as_long_as_without(relative: list[float], power: float) -> None:
    assert fmean(each**2 for each in scales(relative, power)) == pytest.approx(1)


def test_genes_follow_what_was_measured_of_their_source_and_layers() -> None:
    genome = measured(UNEVEN, EVEN)
    # The weights of a and of b in both layer groups, and the trust of all.
    assert [(gene.parameter, gene.source, gene.group) for gene in genome.genes] == [
        ("weight", 0, 0),
        ("weight", 0, 1),
        ("weight", 1, 0),
        ("weight", 1, 1),
        ("trust", None, None),
    ]
    assert step_scales(genome) == scales([0.4, 1.6, 1.0, 1.0, 1.0], -0.5)


def test_a_gene_of_all_sources_or_layers_follows_their_mean() -> None:
    of_all_layers = measured(UNEVEN, EVEN, shared={"weight": ["layers"]})
    assert step_scales(of_all_layers) == (1, 1, 1)
    densities = {"operator": "ties", "shared": {"density": ["sources"]}}
    genome = measured(UNEVEN, EVEN, **densities)
    found = dict(zip(genome.genes, step_scales(genome), strict=True))
    first, second = [found[gene] for gene in genome.genes if gene.parameter == "density"]
    assert first / second == pytest.approx((1.3 / 0.7) ** 0.5)


def test_choices_have_no_steps_to_be_scaled() -> None:
    genome = measured(UNEVEN, EVEN, drop_sources=True)
    assert [bool(gene.choices) for gene in genome.genes] == [True] * 2 + [False] * 5
    assert step_scales(genome) == (1, 1, *scales([0.4, 1.6, 1.0, 1.0, 1.0], -0.5))


@pytest.mark.parametrize(
    "genome",
    [measured(), replace(measured(), prior=None), measured(UNEVEN, EVEN, steps=0)],
    ids=["not measured", "no prior", "steps of 0"],
)
def test_where_steps_follow_nothing_there_are_no_scales(
    genome: Genome,
) -> None:
    assert step_scales(genome) == ()
