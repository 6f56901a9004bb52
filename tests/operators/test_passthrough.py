"""Passing a model through changes nothing but its scale."""

from __future__ import annotations

import operating
import pytest
import torch

from evomerge.operators.registry import find_operator


def test_a_scale_of_one_keeps_every_bit() -> None:
    stack = operating.draw((1, 200))
    assert torch.equal(operating.merge("passthrough", stack, scale=[1.0]), stack[0])


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.25])
def test_every_entry_is_scaled(scale: float) -> None:
    stack = operating.draw((1, 200))
    assert torch.equal(operating.merge("passthrough", stack, scale=[scale]), stack[0] * scale)


def test_it_takes_one_source() -> None:
    assert find_operator("passthrough").sources == (1, 1)
