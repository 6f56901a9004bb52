"""A search starts from the base, every source, their average and two task arithmetics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from evomerge.genome.baselines import starting_candidates
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.check import check_operator
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.genome.baselines import Start

SOURCES = [Source(model=name) for name in ("one", "two", "three")]


def _starts(sources: list[Source] = SOURCES) -> dict[str, Start]:
    return {start.name: start for start in starting_candidates("base", sources, "base")}


def test_they_come_in_this_order() -> None:
    found = [(start.kind, start.name) for start in starting_candidates("base", SOURCES, "base")]
    assert found == [
        ("base", "base"),
        ("source", "one"),
        ("source", "two"),
        ("source", "three"),
        ("baseline", "uniform average"),
        ("baseline", "task arithmetic 0.3"),
        ("baseline", "task arithmetic 0.33333"),
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_one_is_a_valid_recipe(count: int) -> None:
    for start in starting_candidates("base", SOURCES[:count], "base"):
        assert check_operator(start.recipe).name == start.recipe.operator


@pytest.mark.parametrize("count", [2, 3])
def test_no_two_are_the_same_recipe(count: int) -> None:
    """Of a single source the uniform average is the source, and is evaluated once."""
    recipes = [start.recipe for start in starting_candidates("base", SOURCES[:count], "base")]
    assert len({digest(recipe) for recipe in recipes}) == len(recipes)


def test_they_are_stored_as_the_search_wants() -> None:
    starts = starting_candidates("base", SOURCES, "float32")
    assert {start.recipe.dtype for start in starts} == {"float32"}


def test_a_source_is_itself_whatever_parameters_the_recipe_gave_it() -> None:
    weighted = [source.model_copy(update={"parameters": {"weight": 0.1}}) for source in SOURCES]
    assert _starts(weighted) == _starts()


def test_a_source_keeps_its_name() -> None:
    named = [Source(model="one", name="maths"), Source(model="two")]
    assert {"maths", "two"} <= _starts(named).keys()


@pytest.fixture(scope="module")
def merge(family: Path) -> Callable[[MergeRecipe], dict[str, Tensor]]:
    """Merge a recipe over the tiny family in memory."""
    library = SourceLibrary(family)

    def merged(recipe: MergeRecipe) -> dict[str, Tensor]:
        held = {
            name: torch.full(shape, 7, dtype=dtype)
            for name, (dtype, shape) in library.signatures("base").items()
        }
        ResidentWeights(held, library).merge(recipe)
        return held

    return merged


@pytest.fixture(scope="module")
def read(family: Path) -> Callable[[str], dict[str, Tensor]]:
    """Read every tensor of a model of the tiny family."""

    def tensors(model: str) -> dict[str, Tensor]:
        checkpoint = SourceLibrary(family).model(model)
        return {name: checkpoint.read(name) for name in checkpoint.headers}

    return tensors


@pytest.mark.parametrize("model", ["base", "one", "two", "three"])
def test_base_and_sources_give_exactly_their_own_bytes(
    model: str,
    merge: Callable[[MergeRecipe], dict[str, Tensor]],
    read: Callable[[str], dict[str, Tensor]],
) -> None:
    merged, stored = merge(_starts()[model].recipe), read(model)
    assert merged.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(merged[name].view(torch.int16), tensor.view(torch.int16)), name


def test_the_uniform_average_is_the_mean(
    merge: Callable[[MergeRecipe], dict[str, Tensor]], read: Callable[[str], dict[str, Tensor]]
) -> None:
    merged = merge(_starts()["uniform average"].recipe)
    models = [read(name) for name in ("one", "two", "three")]
    for name, tensor in merged.items():
        mean = torch.stack([model[name].double() for model in models]).mean(0)
        assert torch.equal(tensor, mean.to(tensor.dtype)), name


@pytest.mark.parametrize("weight", [0.3, 0.33333])
def test_task_arithmetic_adds_that_share_of_every_task_vector(
    weight: float,
    merge: Callable[[MergeRecipe], dict[str, Tensor]],
    read: Callable[[str], dict[str, Tensor]],
) -> None:
    merged, base = merge(_starts()[f"task arithmetic {weight:g}"].recipe), read("base")
    models = [read(name) for name in ("one", "two", "three")]
    for name, tensor in merged.items():
        start = base[name].double()
        expected = start + weight * sum(model[name].double() - start for model in models)
        # One unit in the last place of bfloat16: float32 and float64 may round to two sides.
        assert torch.allclose(tensor.double(), expected, rtol=2**-7, atol=1e-6), name
