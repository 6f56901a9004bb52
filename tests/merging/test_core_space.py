"""Core space loses nothing, and a merge there is one of the updates written out in full."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import MergeError, RecipeError
from evomerge.merging.core_space import core_space, merge_in_core_space
from evomerge.operators.randomness import generator


def updates(*ranks, rows=9, columns=7, seed=0):
    """Updates of some ranks, with factors 1.5, 2.5, ... on their products."""
    rng = generator(seed, "updates")
    return [
        (
            torch.randn(rows, rank, generator=rng),
            torch.randn(rank, columns, generator=rng),
            1.5 + i,
        )
        for i, rank in enumerate(ranks)
    ]


def written_out(factors):
    return [b.double() @ a.double() * scaling for b, a, scaling in factors]


@given(
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    rows=st.integers(1, 10),
    columns=st.integers(1, 10),
)
@settings(max_examples=30, deadline=None)
def test_bases_and_cores_give_every_update_back(ranks, rows, columns):
    factors = updates(*ranks, rows=rows, columns=columns)
    outputs, inputs, cores = core_space(factors)
    for core, update in zip(cores, written_out(factors), strict=True):
        assert torch.allclose(outputs @ core @ inputs.T, update, rtol=0, atol=1e-10)


def test_bases_are_orthonormal_and_as_small_as_the_ranks():
    outputs, inputs, cores = core_space(updates(2, 1))
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(outputs.T @ outputs, identity)
    assert torch.allclose(inputs.T @ inputs, identity)
    assert (outputs.shape, inputs.shape, cores.shape) == ((9, 3), (7, 3), (2, 3, 3))


def test_what_two_updates_share_needs_no_room_twice():
    b, a, _ = updates(2)[0]
    _, _, cores = core_space([(b, a, 1.0), (b, a * 2, 1.0)])
    assert cores.shape == (2, 2, 2)


@pytest.mark.parametrize("shape", [(9, 7), (3, 20), (20, 2)])
def test_a_linear_merge_equals_the_one_in_full(shape):
    factors = updates(2, 3, 1, rows=shape[0], columns=shape[1])
    b, a = merge_in_core_space(factors, [0.5, -0.3, 1.2], "task_arithmetic", {"scale": 2})
    weighted = zip(written_out(factors), [0.5, -0.3, 1.2], strict=True)
    expected = sum(update * w for update, w in weighted) * 2
    assert torch.allclose((b @ a).double(), expected, rtol=0, atol=1e-4)
    assert b.dtype == a.dtype == torch.float32


@pytest.mark.parametrize(
    ("operator", "arguments"), [("tsv_m", {}), ("iso_c", {}), ("wudi", {"cutoff": 1e-6})]
)
def test_an_operator_that_knows_no_axes_gives_what_it_gives_in_full(operator, arguments):
    # Two directions for each of two sources: in full, too, a source may keep them all.
    factors = updates(2, 2, rows=6, columns=5)
    b, a = merge_in_core_space(factors, [1.0, 1.0], operator, arguments)
    stack = torch.stack(written_out(factors))
    full = operating.merge(operator, stack, weight=1.0, scale=1.0, **arguments)
    assert torch.allclose((b @ a).double(), full, rtol=0, atol=1e-4)


def test_an_operator_that_counts_entries_counts_those_of_the_cores():
    factors = [
        (torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0, 0.0]]), 1.0),
        (torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 2.0]]), 1.0),
    ]
    b, a = merge_in_core_space(factors, [1.0, 1.0], "ties", {"density": [1.0, 0.25]})
    assert torch.allclose(b @ a, torch.tensor([[3.0, 0.0], [0.0, 2.0]]))


def test_updates_of_zeros_merge_to_zeros_of_rank_one():
    nothing = (torch.zeros(4, 2), torch.zeros(2, 3), 1.0)
    b, a = merge_in_core_space([nothing, nothing], [1.0, 1.0], "ties", {})
    assert (b.shape, a.shape) == ((4, 1), (1, 3))
    assert not (b @ a).any()


@pytest.mark.parametrize(
    ("operator", "weights", "arguments", "message"),
    [
        ("linear", [1, 1], {}, "needs more than one tensor's task vectors"),
        ("dare_ties", [1, 1], {}, "needs more than one tensor's task vectors"),
        ("widen", [1, 1], {}, "needs more than one tensor's task vectors"),
        ("pcb", [1, 1], {}, "needs more than one tensor's task vectors"),
        ("ties", [1], {}, "weights: expected 2 values, found 1"),
        ("ties", [1, 1], {"densty": 1}, "has no parameter 'densty'; has weight, density"),
        ("ties", [1, 1], {"density": 2}, r"density: 2 is outside \[0, 1\]"),
        ("ties", [1, 1], {"density": [1, 1, 1]}, "density: expected 2 values, found 3"),
        ("ties", [1, 1], {"scale": [1, 1]}, "scale: expected 1 values, found 2"),
    ],
)
def test_what_core_space_cannot_do_is_said(operator, weights, arguments, message):
    with pytest.raises(MergeError, match=message):
        merge_in_core_space(updates(1, 2), weights, operator, arguments)


def test_an_unknown_operator_is_refused():
    with pytest.raises(RecipeError, match="unknown operator 'tis'"):
        merge_in_core_space(updates(1), [1], "tis", {})


def test_the_number_of_threads_does_not_matter():
    factors = updates(32, 32, rows=300, columns=200)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(merge_in_core_space(factors, [1.0, 0.5], "tsv_m", {}))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(x, y) for result in results for x, y in zip(result, results[0], strict=True)
    )
