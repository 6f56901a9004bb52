"""MoD replaces the upper end of a tensor's range, in the MLP alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import operating
import pytest
import torch

from evomerge.layout import Component

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

PLACES = list(enumerate(Component))


@pytest.mark.parametrize(("number", "component"), PLACES, ids=str)
def test_only_the_mlp_is_touched(
    number: int, component: Component, draw: Callable[..., Tensor]
) -> None:
    pair = draw((2, 30))
    merged = operating.merge("mod", pair, share=0.5, component=torch.tensor(number))
    assert torch.equal(merged, pair[0]) == (component is not Component.MLP)


def test_what_is_not_below_the_share_of_the_range_is_replaced(
    draw: Callable[..., Tensor],
) -> None:
    pair = draw((2, 500), dtype=torch.float64)
    low, high = pair[0].min(), pair[0].max()
    mlp = torch.tensor([*Component].index(Component.MLP))
    merged = operating.merge("mod", pair, share=0.6, component=mlp)
    above = (pair[0] - low) / (high - low) >= 0.6
    assert 0 < above.sum() < 250
    assert torch.equal(merged, torch.where(above, pair[1], pair[0]))
