"""TSV-M adds singular directions up after making them orthogonal, whatever the machine."""

from __future__ import annotations

import operating
import pytest
import torch


def naive(deltas):
    """The paper's algorithm for matrices of full rank, direction by direction."""
    sources, (rows, columns) = len(deltas), deltas[0].shape
    keep = min(rows, columns) // sources
    lefts, values, rights = [], [], []
    for delta in deltas:
        u, s, v = torch.linalg.svd(delta)
        for direction in range(keep):
            lefts.append(u[:, direction])
            values.append(s[direction])
            rights.append(v[direction])
    left, right = torch.stack(lefts, 1), torch.stack(rights, 1)
    # The polar factor is X (XT X)^(-1/2), another way to it than by singular values.
    left, right = (x @ inverse_root(x.T @ x) for x in (left, right))
    parts = zip(left.T, values, right.T, strict=True)
    return sum(s * torch.outer(u, v) for u, s, v in parts)


def inverse_root(gram):
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("shape", [(6, 6), (6, 9), (9, 7)])
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_equals_the_paper_read_naively(draw, shape, sources):
    deltas = draw((sources, *shape), 3, torch.float64)
    merged = operating.merge("tsv_m", deltas, weight=1.0, scale=1.0)
    assert torch.allclose(merged, naive(deltas), atol=1e-9)


def test_turning_inputs_and_outputs_turns_the_result(draw):
    deltas = draw((2, 6, 5), 1, torch.float64)
    left, _ = torch.linalg.qr(draw((6, 6), 2, torch.float64))
    right, _ = torch.linalg.qr(draw((5, 5), 3, torch.float64))
    merged = operating.merge("tsv_m", deltas)
    assert torch.allclose(operating.merge("tsv_m", left @ deltas @ right), left @ merged @ right)


def test_weights_scale_the_sources():
    deltas = torch.tensor([[[3.0, 0], [0, 0]], [[0, 0], [0, 2]]])
    merged = operating.merge("tsv_m", deltas, weight=[2, -1], scale=0.5)
    assert torch.allclose(merged, torch.tensor([[3.0, 0], [0, -1]]))


def test_more_sources_than_directions_keep_one_each(draw):
    deltas = torch.zeros(3, 2, 2)
    deltas[0, 0, 0], deltas[1, 1, 1] = 3, 2
    merged = operating.merge("tsv_m", deltas, weight=1.0, scale=1.0)
    assert torch.allclose(merged, torch.tensor([[3.0, 0], [0, 2]]))


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "wudi", "wudi_iterative", "widen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matrices_are_merged_to_the_same_bits_with_any_number_of_threads(
    name, dtype, draw, same_bits, threads
):
    changes = {"steps": 3.0} if name == "wudi_iterative" else {}
    deltas = draw((3, 150, 200), 4, dtype)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(operating.merge(name, deltas, **changes))
    assert all(same_bits(result, results[0]) for result in results)
