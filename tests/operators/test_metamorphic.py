"""What must not change a merge, and what must change it in step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

WEIGHT = (0.5, 0.25, 1.0)
DENSITY = (0.4, 0.8, 0.6)


@dataclass(frozen=True)
class Merge:
    """An operator and the arguments it is called with, those per source in the sources' order."""

    operator: str
    per_source: dict[str, tuple[float, ...]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operator} {self.others or ''}".strip()


SUMS = [
    Merge("task_arithmetic", {"weight": WEIGHT}),
    Merge("task_arithmetic", {"weight": WEIGHT}, {"normalize": True}),
    Merge("ties", {"weight": WEIGHT, "density": DENSITY}),
    Merge("ties", {"weight": WEIGHT, "density": DENSITY}, {"normalize": False}),
]
DARES = [
    Merge(name, {"weight": WEIGHT, "density": DENSITY}, {"rescale": rescale})
    for name in ("dare_linear", "dare_ties")
    for rescale in ("density", "norm", "none")
]


@pytest.mark.parametrize("merge", [*SUMS, Merge("linear", {"weight": WEIGHT})], ids=str)
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_the_order_of_the_sources_does_not_matter(
    merge: Merge, order: tuple[int, ...], call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack, operator = draw((3, 200), dtype=torch.float64), find_operator(merge.operator)
    turned = {name: tuple(v[i] for i in order) for name, v in merge.per_source.items()}
    assert torch.allclose(
        call(operator, stack, **merge.per_source, **merge.others),
        call(operator, stack[list(order)], **turned, **merge.others),
    )


@pytest.mark.parametrize("merge", [*SUMS, *DARES], ids=str)
def test_turning_every_sign_turns_the_result(
    merge: Merge, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack, operator = draw((3, 200)), find_operator(merge.operator)
    arguments = merge.per_source | merge.others
    assert torch.equal(call(operator, -stack, **arguments), -call(operator, stack, **arguments))


@pytest.mark.parametrize("factor", [0.25, 8.0])
@pytest.mark.parametrize("merge", [*SUMS, *DARES], ids=str)
def test_scaling_the_task_vectors_scales_the_result(
    merge: Merge, factor: float, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    # Powers of two, so that not a bit is lost to rounding.
    stack, operator = draw((3, 200)), find_operator(merge.operator)
    arguments = merge.per_source | merge.others
    scaled = call(operator, stack * factor, **arguments)
    assert torch.equal(scaled, call(operator, stack, **arguments) * factor)


@pytest.mark.parametrize("merge", [*SUMS, *DARES], ids=str)
def test_the_scale_multiplies_the_result(
    merge: Merge, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack, operator = draw((3, 200)), find_operator(merge.operator)
    arguments = merge.per_source | merge.others
    halved = call(operator, stack, scale=0.5, **arguments)
    assert torch.equal(halved, call(operator, stack, scale=1.0, **arguments) * 0.5)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_a_single_source_in_full_is_itself(
    name: str, call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack, operator = draw((1, 200)), find_operator(name)
    full = {key: 1.0 for key in ("weight", "density", "scale") if key in operator.parameters}
    assert torch.equal(call(operator, stack, **full), stack[0])


def test_a_source_of_weight_zero_takes_no_part(
    call: Callable[..., Tensor], draw: Callable[..., Tensor]
) -> None:
    stack = draw((2, 200))
    for name in ("linear", "task_arithmetic", "ties"):
        operator = find_operator(name)
        assert torch.allclose(
            call(operator, stack, weight=(0.5, 0.0)), call(operator, stack[:1], weight=0.5)
        )
