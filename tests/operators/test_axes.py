"""Rows and columns are taken out of a tensor and put back where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch

from evomerge.operators.axes import as_vectors, from_vectors

if TYPE_CHECKING:
    from evomerge.operators.axes import Along

SHAPES = [(), (1,), (7,), (3, 5), (8, 1), (2, 3, 4), (0,), (0, 3), (3, 0)]


def test_rows_run_along_the_last_axis() -> None:
    stack = torch.arange(12).reshape(1, 2, 3, 2)
    rows = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert as_vectors(stack, "rows").tolist() == [rows]


def test_columns_run_along_the_first_axis() -> None:
    stack = torch.arange(12).reshape(1, 2, 3, 2)
    columns = [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    assert as_vectors(stack, "columns").tolist() == [columns]


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_a_tensor_of_one_dimension_is_one_vector(along: Along) -> None:
    assert as_vectors(torch.arange(3).reshape(1, 3), along).tolist() == [[[0, 1, 2]]]


@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_go_back_where_they_were(shape: tuple[int, ...], along: Along) -> None:
    stack = operating.draw((2, *shape))
    vectors = as_vectors(stack, along)
    assert torch.equal(from_vectors(vectors[1], shape, along), stack[1])
