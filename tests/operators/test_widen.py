"""WIDEN weighs columns by what happened to them, not by where they are."""

from __future__ import annotations

import math

import operating
import pytest
import torch

from evomerge.operators.widen import column_changes

EYE = [[1.0, 0.0], [0.0, 1.0]]


def test_columns_change_in_length_and_in_direction():
    deltas = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1], [0, 0]]])
    magnitude, direction = column_changes(torch.eye(2), deltas)
    root = 2**0.5
    expected = torch.tensor([[1, 0], [0, root - 1]], dtype=torch.float64)
    assert torch.allclose(magnitude, expected)
    assert torch.allclose(direction, torch.tensor([[0, 0], [0, 1 - 1 / root]]).double())


def test_small_changes_of_direction_are_not_lost_in_rounding():
    # 1 - cos of an angle of 1e-4 is 5e-9, less than a unit of rounding of float32.
    _, direction = column_changes(torch.ones(1, 1).expand(2, 1), torch.tensor([[[0.0], [2e-4]]]))
    assert direction.item() == pytest.approx(5e-9, rel=0.01)


def test_columns_of_zeros_have_no_direction():
    base = torch.tensor([[0.0, 1.0, 0.0]])
    _, direction = column_changes(base, torch.tensor([[[2.0, -1.0, 0.0]]]))
    assert not direction.any()


def naive(base, deltas, threshold, calibration):
    """The paper's algorithm for columns that all changed differently, one at a time."""
    sources, columns = len(deltas), base.shape[1]
    importance = torch.zeros(sources, columns, dtype=torch.float64)
    for changes in column_changes(base, deltas):
        order = [[int((row < one).sum()) for one in row] for row in changes]
        for column in range(columns):
            total = sum(math.exp(ranks[column] / columns) for ranks in order)
            for source, ranks in enumerate(order):
                high = ranks[column] > threshold * sum(ranks) / columns
                share = calibration if high else math.exp(ranks[column] / columns) / total
                importance[source, column] += share / 2
    return sum(delta * own for delta, own in zip(deltas, importance, strict=True))


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.7])
def test_equals_the_paper_read_naively(draw, threshold):
    base, deltas = draw((6, 9), 1, torch.float64), draw((3, 6, 9), 2, torch.float64)
    merged = operating.merge(
        "widen", deltas, base=base, weight=1.0, scale=1.0, threshold=threshold, calibration=0.8
    )
    assert torch.allclose(merged, naive(base, deltas, threshold, 0.8))


def test_reordering_columns_reorders_the_result(draw):
    base, deltas = draw((4, 6), 1), draw((2, 4, 6), 2)
    deltas[0, :, 1] = deltas[0, :, 4] = 0
    order = [4, 2, 5, 1, 0, 3]
    merged = operating.merge("widen", deltas, base=base)
    turned = operating.merge("widen", deltas[:, :, order], base=base[:, order])
    assert torch.equal(turned, merged[:, order])


def test_without_a_high_rank_all_sources_share():
    deltas = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1], [0, 0]]])
    merged = operating.merge("widen", deltas, base=EYE, weight=1.0, scale=1.0, threshold=100.0)
    # Ranks 1/2 against 0 in length, in direction 0 against 0 and 1/2 against 0.
    half = math.exp(0.5) / (math.exp(0.5) + 1)
    assert merged[0].tolist() == pytest.approx([(half + 0.5) / 2, half])


def test_weights_and_scale_act_on_the_sum():
    deltas = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1], [0, 0]]])
    merged = operating.merge(
        "widen", deltas, base=EYE, weight=[2, 3], scale=0.5, threshold=1.0, calibration=1.0
    )
    assert merged.tolist() == [[0.75, 1.5], [0, 0]]
