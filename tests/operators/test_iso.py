"""Iso-C levels singular values and Iso-CTS makes room for each source among them."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def singular_values(matrix):
    return torch.linalg.svdvals(matrix)


def naive_cts(deltas, common):
    """The paper's algorithm for matrices of full rank, direction by direction."""
    sources, most = len(deltas), min(deltas[0].shape)
    own = round((most - int(most * common)) / sources)
    u, s, v = torch.linalg.svd(sum(deltas))
    triples = [(u[:, i], s[i], v[i]) for i in range(most - sources * own)]
    for delta in deltas:
        rest = delta.clone()
        for direction in u.T[: most - sources * own]:
            rest -= torch.outer(direction, direction @ delta)
        rest_u, rest_s, rest_v = torch.linalg.svd(rest)
        triples += [(rest_u[:, i], rest_s[i], rest_v[i]) for i in range(own)]
    left, right = (torch.stack([triple[i] for triple in triples], 1) for i in (0, 2))
    left, right = (x @ inverse_root(x.T @ x) for x in (left, right))
    return left @ right.T * sum(s for _, s, _ in triples) / most


def inverse_root(gram):
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag(values**-0.5) @ vectors.T


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), sources=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_all_singular_values_become_the_mean_of_the_sums(rows, columns, sources):
    deltas = operating.draw((sources, rows, columns), 5, torch.float64)
    merged = operating.merge("iso_c", deltas, weight=1.0, scale=1.0)
    mean = singular_values(deltas.sum(0)).mean()
    assert torch.allclose(singular_values(merged), mean.expand(min(rows, columns)))


def test_a_sum_of_lower_rank_keeps_rank_and_nuclear_norm(draw):
    deltas = draw((2, 6, 2), 1, torch.float64) @ draw((2, 5), 2, torch.float64)
    merged = operating.merge("iso_c", deltas, weight=1.0, scale=1.0)
    before, after = singular_values(deltas.sum(0)), singular_values(merged)
    assert torch.allclose(after, torch.tensor([1.0, 1, 0, 0, 0]).double() * before.sum() / 2)


@pytest.mark.parametrize("common", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(8, 8), (8, 11), (11, 8)])
def test_room_for_sources_equals_the_paper_read_naively(draw, common, shape):
    deltas = draw((2, *shape), 3, torch.float64)
    merged = operating.merge("iso_cts", deltas, weight=1.0, scale=1.0, common=common)
    assert torch.allclose(merged, naive_cts(deltas, common), atol=1e-9)


@pytest.mark.parametrize(("sources", "common"), [(3, 1.0), (1, 0.4), (1, 0.0)])
def test_without_room_for_sources_or_with_one_source_it_is_iso_c(draw, sources, common):
    deltas = draw((sources, 7, 5), 4, torch.float64)
    merged = operating.merge("iso_cts", deltas, common=common, scale=1.5)
    assert torch.allclose(merged, operating.merge("iso_c", deltas, scale=1.5))


def test_more_sources_than_directions_leave_all_room_to_the_sum(draw):
    deltas = draw((5, 4, 3), 4, torch.float64)
    merged = operating.merge("iso_cts", deltas, common=0.0)
    assert torch.allclose(merged, operating.merge("iso_c", deltas))


def test_one_source_twice_is_leveled_without_directions_made_up(draw):
    delta = draw((6, 5), 6, torch.float64)
    delta[:, 3:] = 0
    merged = operating.merge("iso_cts", torch.stack([delta, delta]), common=0.5)
    assert not merged[:, 3:].abs().gt(1e-12).any()
