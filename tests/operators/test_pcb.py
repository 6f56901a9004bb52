"""PCB ranks entries in the whole model and shares each entry among its winners."""

from __future__ import annotations

import math

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def naive(deltas, density, outliers, balancing):
    """The authors' algorithm on flat task vectors, sorted, entry by entry."""
    sources, size = len(deltas), len(deltas[0])
    clamped, normal = [], []
    for row in deltas:
        ranked = sorted(abs(x) for x in row)
        low, high = ranked[int(size * outliers)], ranked[int(size * (1 - outliers) - 1)]
        clipped = [min(max(abs(x), low), high) for x in row]
        normal.append([(c - low) / (high - low) for c in clipped])
        clamped.append([math.copysign(c, x) for c, x in zip(clipped, row, strict=True)])
    shares = []
    for i in range(sources):
        scores = []
        for entry in range(size):
            within = math.exp(sources * normal[i][entry] ** 2)
            x = deltas[i][entry]
            if balancing == "sum":
                between = math.tanh(x * sum(row[entry] for row in deltas))
            elif balancing == "normalized":
                signs = [math.copysign(1, row[entry]) for row in deltas]
                between = math.tanh(
                    x * sum(s * n[entry] for s, n in zip(signs, normal, strict=True))
                )
            else:
                between = sum(math.tanh(clamped[i][entry] * row[entry]) for row in clamped)
            scores.append(within * between)
        least, most = sorted(scores)[int(size * (1 - density))], max(scores)
        shares.append([(max(s, least) - least) / (most - least) for s in scores])
    merged = []
    for entry in range(size):
        total = sum(share[entry] for share in shares)
        parts = (c[entry] * share[entry] for c, share in zip(clamped, shares, strict=True))
        merged.append(sum(parts) / max(total, 1e-12))
    return torch.tensor(merged, dtype=torch.float64)


@pytest.mark.parametrize("balancing", ["sum", "normalized", "pairs"])
@pytest.mark.parametrize(("density", "outliers"), [(0.5, 0.0), (0.3, 0.1), (0.9, 0.05)])
@pytest.mark.parametrize("sources", [2, 3])
def test_equals_the_authors_algorithm_read_naively(draw, sources, density, outliers, balancing):
    deltas = draw((sources, 40), 1, torch.float64)
    settings = {"density": density, "outliers": outliers, "balancing": balancing}
    merged = operating.merge("pcb", deltas, weight=1.0, scale=1.0, **settings)
    assert torch.allclose(merged, naive(deltas.tolist(), **settings))


@given(cuts=st.sets(st.integers(1, 59), max_size=5), balancing=st.sampled_from(["sum", "pairs"]))
@settings(max_examples=25, deadline=None)
def test_ranks_are_those_of_the_model_however_it_is_cut_into_tensors(cuts, balancing):
    model = operating.draw((3, 60), 2, torch.float64)
    whole = operating.merge("pcb", model, balancing=balancing)
    parts = torch.tensor_split(model, sorted(cuts), dim=1)
    merged = [operating.merge("pcb", part, stacks=parts, balancing=balancing) for part in parts]
    assert torch.equal(torch.cat(merged), whole)


def test_alike_sources_keep_the_best_entries_as_they_are(draw):
    delta = draw((30,), 3, torch.float64)
    merged = operating.merge(
        "pcb", delta.repeat(2, 1), weight=1.0, scale=1.0, density=0.2, outliers=0.0
    )
    kept = merged != 0
    # int(30 * 0.8) entries rank below the least that counts, and that one counts for 0.
    assert kept.sum() == 5
    assert torch.allclose(merged[kept], delta[kept])
    assert delta[kept].abs().min() > delta[~kept].abs().max()


def test_one_source_loses_only_its_least_entry():
    merged = operating.merge(
        "pcb", [[4.0, -1.0, 2.0]], weight=1.0, scale=1.0, density=1.0, outliers=0.0
    )
    assert merged.tolist() == [4, 0, 2]


def test_magnitudes_that_are_all_alike_count_in_full():
    merged = operating.merge("pcb", [[2.0, -2.0, 2.0]], weight=1.0, scale=1.0)
    assert merged.tolist() == [2, -2, 2]


def test_a_source_that_changed_nothing_takes_no_share(draw):
    deltas = draw((2, 20), 4)
    deltas[1] = 0
    merged = operating.merge("pcb", deltas, weight=1.0, scale=1.0, outliers=0.0)
    kept = merged != 0
    assert kept.any()
    assert torch.allclose(merged[kept], deltas[0][kept])


def test_a_hundred_sources_do_not_overflow(draw):
    assert operating.merge("pcb", draw((100, 12), 5)).isfinite().all()
