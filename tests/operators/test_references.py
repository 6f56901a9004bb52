"""Operators do what papers and authors' codes say, entry by entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import operating
import pytest
import references
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from evomerge.operators.randomness import Draws

many = settings(max_examples=30)
# Sums of these are exact, so that a vote is a draw for both or for none.
entries = st.integers(-32, 32).map(lambda n: n / 16)
# A chance is a multiple of 2^-16: a density between two of them would be a matter of rounding.
densities = st.integers(1, 16).map(lambda n: n / 16)
weights = st.integers(-8, 16).map(lambda n: n / 8)


def _rows(data: st.DataObject, sources: int, size: int) -> list[list[float]]:
    row = st.lists(entries, min_size=size, max_size=size)
    return data.draw(st.lists(row, min_size=sources, max_size=sources))


def _per_source(data: st.DataObject, values: st.SearchStrategy[float], count: int) -> list[float]:
    return data.draw(st.lists(values, min_size=count, max_size=count))


def _merge_model(name: str, deltas: list[list[float]], cut: int, **arguments: Any) -> list[float]:
    """Merge flat models that are cut in two tensors, with what is measured of both together."""
    model = torch.tensor(deltas, dtype=torch.float64)
    stacks = [model[:, :cut], model[:, cut:]]
    merged = [operating.merge(name, stack, stacks=stacks, **arguments) for stack in stacks]
    return torch.cat(merged).tolist()


def _draws(sources: int) -> list[Draws]:
    return [draws(5, "tensor", "layer", str(row)) for row in range(sources)]


@given(data=st.data(), sources=st.integers(1, 4), size=st.integers(1, 24))
@pytest.mark.parametrize("merge", ["mean", "sum", "max"])
@many
def test_ties_global_is_the_ties_of_its_authors(
    data: st.DataObject, sources: int, size: int, merge: str
) -> None:
    deltas, cut = _rows(data, sources, size), data.draw(st.integers(0, size))
    density = _per_source(data, st.integers(0, 16).map(lambda n: n / 16), sources)
    expected = references.ties(deltas, density, 0.5, merge)
    merged = _merge_model("ties_global", deltas, cut, density=density, scale=0.5, merge=merge)
    assert merged == pytest.approx(expected, abs=1e-12)


@given(data=st.data(), sources=st.integers(1, 4), size=st.integers(1, 24))
@many
def test_dare_linear_is_dare_and_a_sum(data: st.DataObject, sources: int, size: int) -> None:
    deltas, own = _rows(data, sources, size), _draws(sources)
    weight, density = (_per_source(data, each, sources) for each in (weights, densities))
    chances = [each.coarse((size,)).tolist() for each in own]
    merged = operating.merge(
        "dare_linear",
        torch.tensor(deltas, dtype=torch.float64),
        weight=weight,
        density=density,
        scale=0.5,
        draws=own,
        rescale="density",
    )
    expected = references.dare(deltas, chances, weight, density, 0.5)
    assert merged.tolist() == pytest.approx(expected, abs=1e-12)


@given(
    data=st.data(), sources=st.integers(1, 4), rows=st.integers(1, 5), columns=st.integers(1, 8)
)
@many
def test_della_is_what_its_paper_says(
    data: st.DataObject, sources: int, rows: int, columns: int
) -> None:
    flat, own = _rows(data, sources, rows * columns), _draws(sources)
    stack = torch.tensor(flat, dtype=torch.float64).view(sources, rows, columns)
    weight = _per_source(data, st.integers(1, 16).map(lambda n: n / 8), sources)
    density = _per_source(data, st.integers(4, 12).map(lambda n: n / 16), sources)
    epsilon = _per_source(data, st.integers(0, 3).map(lambda n: n / 16), sources)
    chances = [each.coarse((rows, columns)).tolist() for each in own]
    merged = operating.merge(
        "della",
        stack,
        weight=weight,
        density=density,
        epsilon=epsilon,
        scale=0.5,
        normalize=True,
        rescale="probability",
        draws=own,
    )
    expected = references.della(stack.tolist(), chances, weight, density, epsilon, 0.5)
    assert torch.allclose(merged, torch.tensor(expected, dtype=torch.float64))


@given(data=st.data(), sources=st.integers(1, 4), size=st.integers(4, 24))
@pytest.mark.parametrize("balancing", ["sum", "normalized", "pairs"])
@many
def test_pcb_is_the_code_of_its_authors(
    data: st.DataObject, sources: int, size: int, balancing: str
) -> None:
    # Larger ones would differ in the last digits of hyperbolic tangents near 1 only.
    deltas = [[value / 2 for value in row] for row in _rows(data, sources, size)]
    weight, cut = _per_source(data, weights, sources), data.draw(st.integers(0, size))
    ratio = data.draw(st.integers(1, 16).map(lambda n: n / 16))
    quantile = data.draw(st.sampled_from([0, 1 / 16, 1e-4]))
    expected = references.pcb(deltas, weight, ratio, quantile, balancing)
    assume(expected is not None)
    merged = _merge_model(
        "pcb",
        deltas,
        cut,
        weight=weight,
        density=ratio,
        outliers=quantile,
        balancing=balancing,
        scale=1.0,
    )
    assert merged == pytest.approx(expected, abs=1e-6)
