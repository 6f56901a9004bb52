"""One way for tests to call any operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from evomerge.operators.apply import apply
from evomerge.operators.chunks import Chunks
from evomerge.operators.measure import take_measure
from evomerge.operators.parameters import OF_SOURCES
from evomerge.operators.randomness import draws, generator
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.operators.parameters import Parameter, ParameterValue
    from evomerge.operators.registry import Operator


def draw(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator(seed, "test"), dtype=dtype)


def ordinary(parameter: Parameter) -> ParameterValue:
    """A value in the middle of what a parameter may be."""
    if parameter.search is not None:
        return (parameter.search.low + parameter.search.high) / 2
    assert parameter.default is not None
    return parameter.default


def source_input(
    name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor | None:
    """A statistic of sources whose stack has this shape; positive numbers."""
    count = shape[0]
    shapes = {
        "fisher": shape,
        "fisher_norm": (count,),
        "sensitivity": (count, 4),
        "importance": (count, 4),
        "distance": (count, count),
    }
    return draw(shapes[name], 98, dtype).square() if name in shapes else None


def merge(
    name: str,
    stack: Any,
    *,
    seed: int = 0,
    stacks: Any = None,
    compiled: bool = False,
    **changes: Any,
) -> Tensor:
    """Call an operator with ordinary values and made-up inputs, except for some changes.

    Args:
        name: The operator's.
        stack: What it merges, a tensor or nested lists.
        seed: Names the random numbers.
        stacks: The stacks of the whole model, for measures of models.
        compiled: Trace the operator as a compiler does, its numbers as tensors.
        changes: Parameters, as one value for all sources or a tuple or list of one for each, and
            inputs.
    """
    operator, stack, arguments, inputs = _prepare(name, stack, seed, changes)
    if compiled:
        given = arguments | inputs
        if operator.measure is not None:
            given["measured"] = take_measure(operator.measure, stack, given, stacks)
        for key, parameter in operator.parameters.items():
            if parameter.interval is not None:
                given[key] = torch.tensor(given[key], dtype=stack.dtype)
        taken = {
            k: v for k, v in given.items() if k in operator.parameters.keys() | operator.inputs
        }
        # This backend runs the traced operations as they are; what C++ makes of them is tested
        # where the kernel is.
        traced = torch.compile(operator.function, backend="eager", fullgraph=True)
        result: Tensor = traced(list(stack), **taken)
        return result
    return apply(operator, stack, arguments, inputs, stacks)


def measured(name: str, stack: Any, *, seed: int = 0, **changes: Any) -> Tensor:
    """What an operator's first pass finds, with the arguments that `merge` would take."""
    operator, stack, arguments, inputs = _prepare(name, stack, seed, changes)
    assert operator.measure is not None
    return take_measure(operator.measure, stack, {**arguments, **inputs})


def _prepare(
    name: str, stack: Any, seed: int, changes: dict[str, Any]
) -> tuple[Operator, Tensor, dict[str, Any], dict[str, Any]]:
    operator, stack = find_operator(name), torch.as_tensor(stack)
    if not stack.is_floating_point():
        stack = stack.float()
    arguments: dict[str, Any] = {}
    for key, parameter in operator.parameters.items():
        value = changes.pop(key) if key in changes else ordinary(parameter)
        if parameter.per_source:
            value = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(stack)
        arguments[key] = value
    inputs: dict[str, Any] = {
        "draws": [draws(seed, "tensor", "layer", str(row)) for row in range(len(stack))],
        "base": draw(tuple(stack.shape[1:]), 99, stack.dtype),
        "depth": torch.tensor(0.5),
        "component": torch.tensor(0),
        "row_length": torch.tensor(stack.shape[-1] if stack.ndim > 2 else 1),
        "offset": torch.tensor(0),
        **{name: source_input(name, tuple(stack.shape), stack.dtype) for name in OF_SOURCES},
        "gram": None,
        "activation": None,
    }
    for key, derive in operator.derived.items():
        inputs[key] = [derive(Chunks.of(row)) for row in stack]
    unknown = changes.keys() - inputs.keys() - {"measured"} - operator.inputs
    assert not unknown, f"{name} has no parameter {unknown}"
    for key, value in changes.items():
        numbers = isinstance(value, list) and key not in {"draws", *operator.derived}
        inputs[key] = torch.tensor(value, dtype=stack.dtype) if numbers else value
    return operator, stack, arguments, inputs
