"""Singular directions grow, each by a random part of itself, and none turns."""

from __future__ import annotations

import operating
import pytest
import torch

from evomerge.errors import MergeError
from evomerge.operators.randomness import draws


def _mutant(matrix: torch.Tensor, strength: float) -> torch.Tensor:
    return operating.merge("svd_noise", matrix[None], weight=1, strength=strength)


def test_a_diagonal_matrix_stays_diagonal_and_its_values_grow_by_the_parts_drawn() -> None:
    values = torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64)
    parts = draws(0, "tensor", "layer", "0").uniform((1, 3))[0].double()
    mutant = _mutant(values.diag(), 0.4)
    assert torch.allclose(mutant, (values * (1 + 0.4 * parts)).diag())


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_no_direction_turns_and_each_gains_at_most_the_strength(shape: tuple[int, int]) -> None:
    matrix = operating.draw(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    seen = left.mT @ _mutant(matrix, 0.5) @ right.mT
    gains = seen.diagonal() / values - 1
    assert torch.allclose(seen, seen.diagonal().diag())
    assert ((gains > 0) & (gains < 0.5)).all()
    assert gains.unique().numel() == 4


def test_the_rank_of_a_task_vector_does_not_grow() -> None:
    low = operating.draw((9, 2), dtype=torch.float64) @ operating.draw((2, 7), 1, torch.float64)
    assert torch.linalg.matrix_rank(_mutant(low, 0.5)) == 2


@pytest.mark.parametrize("shape", [(), (1,), (5,)], ids=str)
def test_vectors_and_scalars_are_left_alone(shape: tuple[int, ...]) -> None:
    delta = operating.draw(shape)
    assert torch.equal(_mutant(delta, 0.5), delta)


def test_matrices_of_a_stack_are_mutated_one_by_one() -> None:
    stack = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    gains = _mutant(stack, 0.5).diagonal(dim1=1, dim2=2)
    assert gains.unique().numel() == 6


def test_the_number_of_threads_does_not_matter_to_a_matrix() -> None:
    matrix, before = operating.draw((300, 200)), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(_mutant(matrix, 0.5))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(MergeError, match="NaN or infinite"):
        _mutant(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), 0.1)
