"""Every operator keeps shape and dtype, leaves its inputs alone and repeats itself bit for bit."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.chunks import Chunks
from evomerge.operators.randomness import draws
from evomerge.operators.registry import operators

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.operators.parameters import ParameterValue
    from evomerge.operators.registry import Operator

SHAPES = [(), (1,), (7,), (3, 5), (8, 1), (2, 3, 4), (0,)]

every_operator = pytest.mark.parametrize("operator", operators().values(), ids=attrgetter("name"))
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def _source_count(operator: Operator) -> int:
    return operator.sources[1] or 3


@dataclass(frozen=True)
class End:
    """One end of what a parameter of an operator may be."""

    operator: Operator
    parameter: str
    value: ParameterValue

    def __str__(self) -> str:
        return f"{self.operator.name}-{self.parameter}-{self.value}"


def _ends() -> list[End]:
    found = []
    for operator in operators().values():
        for name, parameter in operator.parameters.items():
            values: tuple[ParameterValue, ...] = parameter.choices or (False, True)
            if parameter.search is not None and parameter.interval is not None:
                interval, search = parameter.interval, parameter.search
                low = interval.low if interval.low > -torch.inf else search.low
                high = interval.high if interval.high < torch.inf else search.high
                values = (low, high)
            found += [End(operator, name, value) for value in values]
    return found


@every_shape
@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_keeps_shape_and_dtype(
    operator: Operator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
) -> None:
    merged = call(operator, draw((_source_count(operator), *shape), dtype=dtype))
    assert (merged.shape, merged.dtype) == (shape, dtype)


@every_shape
@every_operator
def test_leaves_its_inputs_alone(
    operator: Operator,
    shape: tuple[int, ...],
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    stack = draw((_source_count(operator), *shape))
    before = stack.clone()
    call(operator, stack)
    assert same_bits(stack, before)


@every_shape
@every_operator
def test_changing_the_result_leaves_the_inputs_alone(
    operator: Operator,
    shape: tuple[int, ...],
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    stack = draw((_source_count(operator), *shape))
    before = stack.clone()
    call(operator, stack).add_(1)
    assert same_bits(stack, before)


@every_shape
@pytest.mark.parametrize(
    "operator",
    [each for each in operators().values() if each.space == "delta"],
    ids=attrgetter("name"),
)
def test_task_vectors_of_zeros_merge_to_zeros(
    operator: Operator, shape: tuple[int, ...], call: Callable[..., Tensor]
) -> None:
    merged = call(operator, torch.zeros(_source_count(operator), *shape))
    assert torch.equal(merged, torch.zeros(shape))


@every_shape
@pytest.mark.parametrize("end", _ends(), ids=str)
def test_the_ends_of_every_range_give_finite_numbers(
    end: End, shape: tuple[int, ...], call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack = draw((_source_count(end.operator), *shape))
    merged = call(end.operator, stack, **{end.parameter: _of_first_source(end, len(stack))})
    assert merged.isfinite().all()


def _of_first_source(end: End, sources: int) -> object:
    """All weights at 0 cannot be normalised, so only the first source goes to the end."""
    if not end.operator.parameters[end.parameter].per_source:
        return end.value
    return (end.value, *[0.5] * (sources - 1))


@every_operator
def test_repeats_itself_whatever_the_global_generator_did(
    operator: Operator,
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    stack = draw((_source_count(operator), 3, 50))
    first = call(operator, stack, seed=1)
    torch.rand(100)
    assert same_bits(call(operator, stack, seed=1), first)


@every_operator
def test_leaves_the_global_generator_alone(
    operator: Operator, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    before = torch.random.get_rng_state()
    call(operator, draw((_source_count(operator), 3, 50)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "operator",
    [each for each in operators().values() if each.stochastic],
    ids=attrgetter("name"),
)
def test_another_seed_draws_another_merge(
    operator: Operator, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack = draw((_source_count(operator), 4, 50))
    assert not torch.equal(call(operator, stack, seed=1), call(operator, stack, seed=2))


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_number_of_threads_does_not_matter(
    operator: Operator,
    dtype: torch.dtype,
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    threads: Callable[[int], None],
) -> None:
    stack = draw((_source_count(operator), 150_001), dtype=dtype)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(call(operator, stack))
    assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("rescale", ["density", "norm", "none"])
def test_the_number_of_threads_does_not_matter_to_a_rescaled_drop(
    rescale: str,
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
    threads: Callable[[int], None],
) -> None:
    # In float64 no rounding of the result hides how a norm was added up.
    stack = draw((2, 4 * 32_768), dtype=torch.float64)
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(call(operators()["dare_linear"], stack, rescale=rescale))
    assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize(
    "operator",
    [each for each in operators().values() if each.elementwise],
    ids=attrgetter("name"),
)
@pytest.mark.parametrize("sources", [1, 2, 3, 4, 5, 9])
@given(data=st.data(), size=st.integers(1, 300))
@settings(max_examples=25)
def test_an_elementwise_operator_does_not_see_how_a_tensor_is_cut(
    operator: Operator,
    sources: int,
    data: st.DataObject,
    size: int,
    call: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    if not operator.sources[0] <= sources <= (operator.sources[1] or sources):
        return
    stack = draw((sources, size))
    inputs: dict[str, Any] = {
        "base": draw((size,), 7),
        "fisher": draw((sources, size), 8).square(),
    }
    inputs["draws"] = [draws(0, "tensor", "layer", str(row)) for row in range(sources)]
    for name, derive in operator.derived.items():
        inputs[name] = [derive(Chunks.of(row)) for row in stack]
    inputs["offset"] = torch.tensor(0)
    if operator.measure is not None:
        inputs["measured"] = operating.measured(operator.name, stack, **inputs)
    whole = operating.merge(operator.name, stack, **inputs)
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=8)) | {0, size})
    blocks = []
    for start, end in pairwise(cuts):
        part = {k: v[..., start:end] for k, v in inputs.items() if k in ("base", "fisher")}
        part["draws"] = [own.after(start) for own in inputs["draws"]]
        part["offset"] = torch.tensor(start)
        part |= {name: [row[start:end] for row in inputs[name]] for name in operator.derived}
        part |= {key: inputs[key] for key in inputs.keys() & {"measured"}}
        blocks.append(operating.merge(operator.name, stack[:, start:end], **part))
    assert same_bits(torch.cat(blocks), whole)


@every_operator
def test_is_documented_with_the_year_of_its_source(operator: Operator) -> None:
    module = sys.modules[operator.function.__module__]
    assert re.search(r"\b(19|20)\d\d\b", module.__doc__ or "")
    assert operator.summary.endswith(".")


@every_operator
def test_lives_in_a_file_named_after_its_method(operator: Operator) -> None:
    file = operator.function.__module__.rpartition(".")[2]
    assert operator.name == file or operator.name.startswith((f"{file}_", f"{file}plus_"))


@pytest.mark.parametrize(
    "operator",
    [each for each in operators().values() if each.elementwise and each.fusible],
    ids=attrgetter("name"),
)
def test_an_elementwise_operator_can_be_compiled_into_one_loop(
    operator: Operator,
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    """Its numbers are tensors then, and it is traced without looking at them."""
    stack = draw((operator.sources[1] or 3, 300))
    eager = operating.merge(operator.name, stack)
    assert same_bits(operating.merge(operator.name, stack, compiled=True), eager)
