"""Promise: norms, kinship and conflict are those one gets with pencil and paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.sensitivity.moments import DeltaMoments, add_up, measure_deltas

BASE = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)
ONE = [4.0, -1.0, 0.5, -3.0]
TWO = [2.0, 3.0, -0.2, -1.0]


def moments(*deltas: list[float], base: torch.Tensor = BASE) -> DeltaMoments:
    return measure_deltas(base[: len(deltas[0])], torch.tensor(deltas, dtype=torch.float64))


def test_kinship_of_two_task_vectors_computed_by_hand() -> None:
    found = moments(ONE, TWO)
    assert float(found.cosine[0, 1]) == pytest.approx(0.411509, abs=1e-6)
    assert float(found.pearson[0, 1]) == pytest.approx(0.449270, abs=1e-6)
    assert float(found.euclid[0, 1]) == pytest.approx(4.948737, abs=1e-6)
    assert found.cosine.diagonal().tolist() == pytest.approx([1, 1])
    assert found.euclid.diagonal().tolist() == [0, 0]


def test_distinctness_is_what_kinship_leaves_computed_by_hand() -> None:
    assert moments(ONE, TWO).distinctness.tolist() == pytest.approx([0.588491] * 2, abs=1e-6)
    # The cosines are .411509 with TWO and -1 with the opposite; to TWO these two cancel.
    opposite = [-value for value in ONE]
    expected = [1 - (0.411509 - 1) / 2, 1, 1 + (0.411509 + 1) / 2]
    found = moments(ONE, TWO, opposite).distinctness.tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def test_nothing_is_distinct_among_equals_and_all_is_in_what_did_not_move() -> None:
    assert moments(ONE, ONE, ONE).distinctness.tolist() == pytest.approx([0, 0, 0], abs=1e-15)
    assert min(moments(ONE, ONE, ONE).distinctness.tolist()) >= 0
    assert moments([0.0] * 4, ONE, ONE).distinctness.tolist() == pytest.approx([1, 0.5, 0.5])


def test_norms_computed_by_hand() -> None:
    found = moments(ONE, [0.0, 3.0, 4.0, 0.0])
    assert found.norms.tolist() == pytest.approx([26.25**0.5, 5])
    assert found.relative_norms.tolist() == pytest.approx([26.25**0.5 / 5, 1])
    assert found.changed.tolist() == [4, 2]
    assert found.entries == 4


def test_conflict_computed_by_hand() -> None:
    # The second and third entries are moved apart: 2 of 4, or 3.1 of 14.1 by size.
    found = moments(ONE, TWO)
    assert float(found.conflict[0, 1]) == 0.5
    assert float(found.weighted_conflict[0, 1]) == pytest.approx(3.1 / 14.1)


def test_entries_that_only_one_changes_are_no_conflict() -> None:
    found = moments([1.0, -1.0, 0.0, 2.0], [1.0, 0.0, -5.0, -2.0])
    assert float(found.shared[0, 1]) == 2
    assert float(found.conflict[0, 1]) == 0.5
    assert float(found.weighted_conflict[0, 1]) == pytest.approx(0.8)


def test_the_opposite_is_all_conflict_and_keeps_its_sign() -> None:
    found = moments(ONE, [-value for value in ONE])
    assert float(found.conflict[0, 1]) == 1
    assert float(found.weighted_conflict[0, 1]) == pytest.approx(1)
    assert float(found.cosine[0, 1]) == pytest.approx(-1)


def test_nothing_beside_a_model_that_did_not_move_is_undefined() -> None:
    found = moments([0.0, 0.0], [1.0, 2.0], base=torch.zeros(2, dtype=torch.float64))
    for matrix in (found.cosine, found.pearson, found.conflict, found.weighted_conflict):
        assert torch.isfinite(matrix).all()
        assert matrix[0, 1] == 0
    assert found.relative_norms.tolist() == [0, 0]


def test_equal_models_are_told_from_almost_equal_ones() -> None:
    almost = [4.0, -1.0, 0.5, -3.0 + 1e-12]
    found = moments(ONE, ONE, almost)
    assert (found.differing > 0).tolist() == [
        [False, False, True],
        [False, False, True],
        [True, True, False],
    ]
    assert found.euclid[0, 1] == 0


entries = st.lists(
    st.tuples(*[st.floats(-4, 4, allow_subnormal=False)] * 3), min_size=2, max_size=12
)


@given(entries, st.integers(1, 11))
def test_moments_of_parts_add_up_to_those_of_the_whole(
    rows: list[tuple[float, ...]], cut: int
) -> None:
    values = torch.tensor(rows, dtype=torch.float64).T
    base, deltas = values[0], values[1:]
    cut = min(cut, len(rows) - 1)
    whole = measure_deltas(base, deltas)
    parts = add_up(
        [measure_deltas(base[:cut], deltas[:, :cut]), measure_deltas(base[cut:], deltas[:, cut:])]
    )
    for name in ("norms", "relative_norms", "conflict", "weighted_conflict", "euclid"):
        torch.testing.assert_close(
            getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-6, msg=name
        )


@given(entries)
def test_shares_and_cosines_stay_in_their_ranges(rows: list[tuple[float, ...]]) -> None:
    values = torch.tensor(rows, dtype=torch.float64).T
    found = measure_deltas(values[0], values)
    assert ((found.conflict >= 0) & (found.conflict <= 1)).all()
    assert ((found.weighted_conflict >= 0) & (found.weighted_conflict <= 1)).all()
    assert (found.cosine.abs() <= 1).all()
    assert torch.equal(found.conflict, found.conflict.T)
