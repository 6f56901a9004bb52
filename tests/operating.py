"""One way for tests to call any operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from evomerge.operators.apply import apply
from evomerge.operators.randomness import draws, generator
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.operators.parameters import Parameter, ParameterValue


def draw(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator(seed, "test"), dtype=dtype)


def ordinary(parameter: Parameter) -> ParameterValue:
    """A value in the middle of what a parameter may be."""
    if parameter.search is not None:
        return (parameter.search.low + parameter.search.high) / 2
    assert parameter.default is not None
    return parameter.default


def merge(name: str, stack: Any, *, seed: int = 0, stacks: Any = None, **changes: Any) -> Tensor:
    """Call an operator with ordinary values and made-up inputs, except for some changes.

    Args:
        name: The operator's.
        stack: What it merges, a tensor or nested lists.
        seed: Names the random numbers.
        stacks: The stacks of the whole model, for measures of models.
        changes: Parameters, as one value for all sources or a tuple or list of one for each, and
            inputs.
    """
    operator = find_operator(name)
    stack = torch.as_tensor(stack)
    if not stack.is_floating_point():
        stack = stack.float()
    arguments: dict[str, Any] = {}
    for key, parameter in operator.parameters.items():
        value = changes.pop(key, ordinary(parameter) if key not in changes else None)
        if parameter.per_source:
            value = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(stack)
        arguments[key] = value
    inputs = {
        "draws": [draws(seed, "tensor", "layer", str(row)) for row in range(len(stack))],
        "base": draw(tuple(stack.shape[1:]), 99, stack.dtype),
        "depth": torch.tensor(0.5),
        "fisher": draw(tuple(stack.shape), 98, stack.dtype).square(),
        "gram": None,
        "activation": None,
    }
    unknown = changes.keys() - inputs.keys() - {"measured"}
    assert not unknown, f"{name} has no parameter {unknown}"
    inputs |= {k: torch.as_tensor(v) if isinstance(v, list) else v for k, v in changes.items()}
    return apply(operator, stack, arguments, inputs, stacks)
