"""A search may look for the layers that a model is made of, instead of their weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_architectures import CAUSAL, build

from evomerge.errors import RecipeError
from evomerge.genome.build import build_genome
from evomerge.genome.path import PathGenome, Step, writers_of
from evomerge.layout import locate
from evomerge.recipe.merge import MergeRecipe, Rule, Source
from evomerge.recipe.space import GenomeSpace
from evomerge.recipe.stack import Slab

if TYPE_CHECKING:
    from evomerge.genome.genome import Genome

TENSORS = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    *(
        f"model.layers.{layer}.{name}.weight"
        for layer in range(4)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    ),
]
OWN = {"times": 0.5, "scale": 0.5}
"""Coordinates of once in [0, 2] and of 1 in [0.5, 1.5]."""


def genome_of(
    *labels: str, tensors: list[str] = TENSORS, groups: Any = 2, **path: Any
) -> PathGenome:
    space = {"operator": "passthrough", "layer_groups": groups, "path": path}
    genome = build_genome(
        base="base",
        sources=[Source(model=label, name=label) for label in labels],
        space=GenomeSpace.model_validate(space),
        tensors=tensors,
        dtype="base",
        seed=0,
    )
    assert isinstance(genome, PathGenome)
    return genome


def point(genome: Genome, **coordinates: list[float]) -> list[float]:
    """A point by parameter, with a coordinate for each layer group."""
    given = {name.replace("_", " "): iter(values) for name, values in coordinates.items()}
    return [next(given[gene.parameter]) for gene in genome.genes]


def test_a_step_has_a_choice_of_layers_of_times_and_a_scale() -> None:
    genome = genome_of("a", "b", repeats=3, scale=[0.5, 1.5])
    assert [(gene.parameter, gene.group, gene.choices) for gene in genome.genes] == [
        (name, group, choices)
        for group in (0, 1)
        for name, choices in (
            ("layers of", ("a", "b")),
            ("times", ("0", "1", "2", "3")),
            ("scale", ()),
        )
    ]
    assert genome.labels()[0]["layers"] == "0-1"


def test_a_path_is_decoded_by_hand() -> None:
    genome = genome_of("a", "b", scale=[0.5, 1.5])
    found = genome.decode(point(genome, layers_of=[0.9, 0.1], times=[0.4, 0.9], scale=[0.25, 1.0]))
    assert found == MergeRecipe(
        base="base",
        sources=(Source(model="a", name="a"), Source(model="b", name="b")),
        operator="passthrough",
        parameters={
            "scale": (
                Rule(value=0.75, layers=(0, 2), tensor="o_proj"),
                Rule(value=0.75, layers=(0, 2), tensor="down_proj"),
                Rule(value=1.5, layers=(2, 4), tensor="o_proj"),
                Rule(value=1.5, layers=(2, 4), tensor="down_proj"),
                Rule(value=1.5, layers=(4, 6), tensor="o_proj"),
                Rule(value=1.5, layers=(4, 6), tensor="down_proj"),
                Rule(value=1.0),
            )
        },
        stack=(
            Slab(layers={"b": (0, 2)}),
            Slab(layers={"a": (2, 4)}),
            Slab(layers={"a": (2, 4)}),
        ),
    )


def test_what_follows_without_a_seam_is_one_slab() -> None:
    genome = genome_of("a", "b", groups="each")
    whole = genome.decode(point(genome, layers_of=[0.9] * 4, times=[0.5] * 4))
    assert whole.stack == (Slab(layers={"b": (0, 4)}),)
    assert [source.label for source in whole.sources] == ["b"]
    assert not whole.parameters


def test_a_step_may_be_left_out_but_not_all_of_them() -> None:
    genome = genome_of("a", "b")
    half = genome.decode(point(genome, layers_of=[0.1, 0.9], times=[0.1, 0.5]))
    none = genome.decode(point(genome, layers_of=[0.9, 0.1], times=[0.1, 0.1]))
    assert half.stack == (Slab(layers={"b": (2, 4)}),)
    assert none.stack == (Slab(layers={"b": (0, 2)}),)


def test_one_source_may_be_repeated() -> None:
    genome = genome_of("a")
    assert [gene.parameter for gene in genome.genes] == ["times", "times"]
    assert genome.steps([0.9, 0.5]) == [Step(0, (0, 2), 1.0), Step(0, (0, 4), 1.0)]


def test_a_scale_counts_only_where_its_layers_do() -> None:
    genome = genome_of("a", "b", scale=[0.5, 1.5])
    place = point(genome, layers_of=[0.1, 0.1], times=[0.1, 0.5], scale=[0.0, 0.0])
    assert genome.active(place) == [True, True, False, True, True, True]


def test_the_mean_of_paths_is_what_most_of_them_choose() -> None:
    genome = genome_of("a", "b", scale=[0.5, 1.5])
    points = [
        point(genome, layers_of=[0.1, 0.9], times=[0.5, 0.5], scale=[0.2, 0.0]),
        point(genome, layers_of=[0.1, 0.9], times=[0.5, 0.9], scale=[0.4, 0.6]),
        point(genome, layers_of=[0.9, 0.1], times=[0.1, 0.9], scale=[0.9, 0.9]),
    ]
    mean = genome.steps(genome.mean([tuple(each) for each in points]))
    assert mean == [Step(0, (0, 2), 0.8), Step(1, (2, 4), 1.0), Step(1, (2, 4), 1.0)]


@given(st.data())
def test_every_point_is_a_path_of_its_steps(data: st.DataObject) -> None:
    genome = genome_of("a", "b", "c", groups="each", repeats=2, scale=[0.4, 1.5])
    size = len(genome.genes)
    drawn = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    recipe, steps = genome.decode(drawn), genome.steps(drawn)
    times = [
        gene.choice(c)
        for gene, c in zip(genome.genes, drawn, strict=True)
        if gene.parameter == "times"
    ]
    assert sum(slab.height for slab in recipe.stack or ()) == max(1, sum(map(int, times)))
    assert {source.label for source in recipe.sources} == {"abc"[step.source] for step in steps}
    assert MergeRecipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"path": {}}, "path: layers are taken as they are, found operator task_arithmetic"),
        ({"operator": "passthrough", "path": {"repeats": 0}}, "repeats"),
        (
            {"operator": "passthrough", "path": {}, "drop_sources": True},
            "path: drop_sources has no say beside a path; leave it out",
        ),
        ({"operator": "passthrough", "path": {"scale": [1.5, 0.5]}}, "path.scale: "),
    ],
)
def test_what_does_not_go_with_a_path_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GenomeSpace.model_validate(space)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("model.layers.0.mixer.weight", "is not known; leave scale out"),
        ("model.layers.0.post_feedforward_layernorm.weight", "undoes any scale; leave scale out"),
    ],
)
def test_a_scale_that_does_nothing_is_refused(tensor: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        genome_of("a", "b", tensors=[tensor], groups=1, scale=[0.5, 1.5])


@pytest.mark.parametrize("name", CAUSAL)
def test_with_a_scale_of_0_layers_add_nothing_or_scales_are_refused(name: str) -> None:
    model = build(*CAUSAL[name])
    tensors = model.state_dict()
    try:
        writers = writers_of([*tensors])
    except RecipeError:
        assert name in {"Gemma2", "Gemma3", "Olmo2"}
        return
    for tensor, values in tensors.items():
        if locate(tensor).layer is not None and any(each in tensor for each in writers):
            values.zero_()
    with torch.no_grad():
        states = model(torch.tensor([[3, 5, 7]]), output_hidden_states=True).hidden_states
    assert torch.equal(states[0], states[1])
    assert states[0].any()


def test_scales_are_refused_if_some_of_what_a_layer_adds_is_not_known() -> None:
    tensors = ["model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.strange.weight"]
    with pytest.raises(RecipeError, match="is not known; leave scale out"):
        writers_of(tensors)
    known = [tensors[0], "model.layers.0.mlp.down_proj.weight"]
    assert writers_of(known) == ("o_proj", "down_proj")
