"""Decompositions leave out directions that a matrix does not have, and repeat themselves."""

from __future__ import annotations

import pytest
import torch

from evomerge.errors import MergeError
from evomerge.operators.spectral import decompose, eigenvectors, nearest_isometry, one_thread


def test_a_decomposition_gives_the_matrix_back(draw):
    matrix = draw((5, 8), dtype=torch.float64)
    left, values, right = decompose(matrix)
    assert torch.allclose((left * values) @ right, matrix)
    assert values.tolist() == sorted(values.tolist(), reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decomposition_has_the_rank_of_the_matrix(draw, dtype):
    matrix = draw((40, 3), 1, dtype) @ draw((3, 30), 2, dtype)
    left, values, right = decompose(matrix)
    assert (left.shape, values.shape, right.shape) == ((40, 3), (3,), (3, 30))


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_a_matrix_of_nothing_has_no_directions(shape):
    left, values, right = decompose(torch.zeros(shape))
    assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (0, shape[1]))
    assert torch.equal(nearest_isometry(torch.zeros(shape)), torch.zeros(shape))


def test_the_nearest_isometry_of_a_scaled_rotation_is_the_rotation():
    rotation = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    assert torch.allclose(nearest_isometry(rotation * 3), rotation)


def test_the_nearest_isometry_of_equal_columns_shares_one_direction():
    matrix = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(nearest_isometry(matrix), matrix / 2**0.5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("function", [decompose, eigenvectors])
def test_entries_that_are_not_finite_are_refused(function, bad):
    with pytest.raises(MergeError, match="NaN or infinite entries"):
        function(torch.tensor([[1.0, 0.0], [0.0, bad]]))


def test_the_number_of_threads_is_put_back(threads):
    threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_the_number_of_threads_is_put_back_after_an_error(threads):
    threads(3)
    with pytest.raises(MergeError, match="NaN"), one_thread():
        decompose(torch.tensor([[torch.nan]]))
    assert torch.get_num_threads() == 3
