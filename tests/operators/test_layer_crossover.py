"""Uniform crossover takes layers whole, each from a source drawn by lot."""

from __future__ import annotations

from collections import Counter
from typing import Any

import operating
import pytest
import torch

from evomerge.errors import MergeError
from evomerge.layout import Component
from evomerge.operators.randomness import draws
from evomerge.operators.registry import find_operator


def _source(
    layer: str, tensor: str, component: int = 0, *, sources: int = 3, **others: Any
) -> int:
    """Which source a tensor is from."""
    stack = torch.arange(float(sources))[:, None].expand(sources, 4)
    own = [draws(2, tensor, layer, str(row)) for row in range(sources)]
    inputs = {"draws": own, "component": torch.tensor(component)}
    child = operating.merge("layer_crossover", stack, **inputs, **others)
    assert (child == child[0]).all()
    return int(child[0])


LAYERS = [str(number) for number in range(600)]


def test_all_tensors_of_a_layer_are_from_one_source() -> None:
    for layer in LAYERS[:20]:
        tensors = (_source(layer, f"{layer}.{name}", name) for name in range(5))
        assert len(set(tensors)) == 1


def test_components_of_a_layer_are_from_sources_of_their_own() -> None:
    components = range(len(Component))
    split = 0
    for layer in LAYERS[:20]:
        found = [
            {_source(layer, name, each, granularity="component") for name in ("one", "two")}
            for each in components
        ]
        assert all(len(sources) == 1 for sources in found)
        split += len(set.union(*found)) > 1
    assert split > 10


def test_tensors_may_be_from_sources_of_their_own() -> None:
    found = {_source("0", str(tensor), granularity="tensor") for tensor in range(30)}
    assert found == {0, 1, 2}


def test_every_source_gives_as_many_layers_as_its_weight_says() -> None:
    weight = (1.0, 0.0, 2.0, 3.0)
    counts = Counter(_source(layer, "tensor", weight=weight, sources=4) for layer in LAYERS)
    assert counts[1] == 0
    for source, chance in [(0, 1 / 6), (2, 1 / 3), (3, 1 / 2)]:
        # Four standard deviations of a binomial.
        slack = 4 * (len(LAYERS) * chance * (1 - chance)) ** 0.5
        assert counts[source] == pytest.approx(len(LAYERS) * chance, abs=slack)


def test_weights_that_leave_no_source_a_chance_are_refused() -> None:
    check = find_operator("layer_crossover").check
    assert check is not None
    with pytest.raises(MergeError, match=r"weight: \[0, 0\] gives no source a chance; make one"):
        check(weight=(0, 0), granularity="layer")
    check(weight=(0, 1e-3), granularity="layer")
