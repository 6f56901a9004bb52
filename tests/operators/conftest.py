"""What tests of operators share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from evomerge.operators.parameters import Parameter, ParameterValue
    from evomerge.operators.registry import Operator


def _call(operator: Operator, stack: Tensor, *, seed: int = 0, **changes: Any) -> Tensor:
    return operating.merge(operator.name, stack, seed=seed, **changes)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    bytes_of = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return first.dtype == second.dtype and torch.equal(*bytes_of)


# Functions as fixtures, because test modules cannot import this file.


@pytest.fixture(scope="session")
def draw() -> Callable[..., Tensor]:
    return operating.draw


@pytest.fixture(scope="session")
def ordinary() -> Callable[[Parameter], ParameterValue]:
    return operating.ordinary


@pytest.fixture(scope="session")
def call() -> Callable[..., Tensor]:
    return _call


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    return _same_bits


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch's threads; it is put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
