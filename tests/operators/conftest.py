"""Seeded tensors, and one way to call any operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from evomerge.operators.parameters import Parameter, ParameterValue
    from evomerge.operators.registry import Operator


def _draw(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"), dtype=dtype)


def _ordinary(parameter: Parameter) -> ParameterValue:
    """A value in the middle of what a parameter may be."""
    if parameter.search is not None:
        return (parameter.search.low + parameter.search.high) / 2
    assert parameter.default is not None
    return parameter.default


def _call(operator: Operator, stack: Tensor, *, seed: int = 0, **changes: Any) -> Tensor:
    """Call an operator with ordinary values; a change is one value for all sources or a tuple."""
    arguments: dict[str, Any] = {}
    for name, parameter in operator.parameters.items():
        value = changes.pop(name, _ordinary(parameter))
        if parameter.per_source and not isinstance(value, tuple):
            value = (value,) * len(stack)
        arguments[name] = value
    assert not changes, f"{operator.name} has no parameter {list(changes)}"
    if operator.stochastic:
        arguments["rngs"] = [generator(seed, "tensor", str(row)) for row in range(len(stack))]
    return operator.function(stack, **arguments)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    bytes_of = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return first.dtype == second.dtype and torch.equal(*bytes_of)


# Functions as fixtures, because test modules cannot import this file.


@pytest.fixture(scope="session")
def draw() -> Callable[..., Tensor]:
    return _draw


@pytest.fixture(scope="session")
def ordinary() -> Callable[[Parameter], ParameterValue]:
    return _ordinary


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
