"""A combination gives each source the share that a rule finds, compiled or not."""

from __future__ import annotations

import operating
import pytest
import torch
from torch import Tensor

from evomerge.operators.combination import combination

CALLS: list[list[Tensor]] = []


@combination
def _half_of_the_norms(gram: Tensor, *numbers: Tensor) -> Tensor:
    CALLS.append([gram, *numbers])
    return gram.diagonal().sqrt() / 2


def _merge(rows: list[Tensor], gram: Tensor, weight: Tensor) -> Tensor:
    return _half_of_the_norms(rows, gram, weight)


def test_the_sources_are_added_up_by_their_shares() -> None:
    rows, gram = torch.tensor([[1.0, 2.0], [10.0, 20.0]]), torch.diag(torch.tensor([4.0, 16.0]))
    assert _half_of_the_norms(rows, gram).tolist() == [21.0, 42.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_result_has_the_dtype_of_the_sources(dtype: torch.dtype) -> None:
    rows = torch.ones(2, 3, dtype=dtype)
    assert _half_of_the_norms(rows, torch.eye(2, dtype=torch.float64)).dtype == dtype


def test_numbers_are_as_precise_as_the_sources_whatever_they_come_as() -> None:
    rows, gram = torch.ones(2, 3), torch.eye(2, dtype=torch.float64)
    CALLS.clear()
    _half_of_the_norms(rows, gram, 0.1, True, (0.1, 0.3))
    _half_of_the_norms(rows, gram, torch.tensor(0.1), True, torch.tensor([0.1, 0.3]))
    for plain, tensor in zip(*CALLS, strict=True):
        assert plain.dtype == tensor.dtype == torch.float64
        assert torch.equal(plain, tensor)


def test_a_compiler_does_not_look_into_the_rule() -> None:
    """It asks Python, which branches as it likes, once for all entries."""
    traced = torch.compile(_merge, backend="eager", fullgraph=True)
    rows = list(operating.draw((2, 50)))
    gram = torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64))
    CALLS.clear()
    assert torch.equal(traced(rows, gram, torch.tensor(0.5)), rows[0] + rows[1] * 1.5)
    assert len(CALLS) == 1
