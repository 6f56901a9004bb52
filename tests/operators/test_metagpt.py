"""MetaGPT weighs sources by their squared norms in the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def test_the_norms_are_those_of_the_model_not_of_the_tensor() -> None:
    # Squared norms 1 + 8 and 1 + 0: shares 0.9 and 0.1 everywhere.
    stacks = [torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0, 2.0], [0.0, 0.0]])]
    merged = [operating.merge("metagpt", each, stacks=stacks, scale=1.0) for each in stacks]
    assert torch.cat(merged).tolist() == pytest.approx([1.0, 1.8, 1.8])


def test_shares_are_those_of_the_squared_norms_and_add_up_to_one(
    draw: Callable[..., Tensor],
) -> None:
    deltas = draw((4, 50, 30)) * torch.tensor([1.0, 2.0, 0.1, 0.0]).view(4, 1, 1)
    shares = operating.measured("metagpt", deltas)
    assert shares.sum().item() == pytest.approx(1)
    squares = deltas.double().square().sum((1, 2))
    assert shares.tolist() == pytest.approx((squares / squares.sum()).tolist())


def test_sources_that_are_all_the_base_have_no_shares() -> None:
    assert operating.measured("metagpt", torch.zeros(2, 3)).tolist() == [0.0, 0.0]
