"""Promise: logits are those of the places that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluated_models import MODELS, llama

from evomerge.evaluation.passes.forward import Forward

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
PLACES = [(0, 0), (1, 3), (1, 4), (0, 4), (1, 4)]


@torch.inference_mode()
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_the_head_sees_the_places_that_are_wanted(make: Callable[[], Any]) -> None:
    model = make()
    seen: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, arguments, __: seen.append(tuple(arguments[0].shape[:2]))
    )
    found = Forward(model).logits({"input_ids": IDS}, PLACES)
    expected = model(IDS).logits
    assert seen[0] == (1, len(PLACES))
    for row, place in zip(found, PLACES, strict=True):
        assert torch.allclose(row, expected[place], atol=1e-5)


@torch.inference_mode()
def test_a_model_whose_head_cannot_be_told_gives_the_same() -> None:
    model = llama()
    expected = Forward(model).logits({"input_ids": IDS}, PLACES)
    model.get_output_embeddings = lambda: None
    assert torch.allclose(Forward(model).logits({"input_ids": IDS}, PLACES), expected, atol=1e-5)


@torch.inference_mode()
def test_what_was_read_before_need_not_be_read_again() -> None:
    forward = Forward(llama())
    whole, _ = forward.read(IDS)
    _, keys = forward.read(IDS[:, :2])
    again, _ = forward.read(IDS[:, 2:], torch.ones_like(IDS), keys)
    assert torch.allclose(again, whole, atol=1e-5)
    assert keys.length == 5


@torch.inference_mode()
def test_rows_that_are_kept_go_on_as_they_would_have_alone() -> None:
    forward = Forward(llama())
    _, long = forward.read(IDS)
    _, short = forward.read(IDS[:1, :3])
    both = long.beside(short)
    assert both.length == 5
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    last = torch.tensor([[7], [7]])
    found, _ = forward.read(last, mask, both.only(torch.tensor([1, 2]), 5))
    for row, before in zip(found, (IDS[1], IDS[0, :3]), strict=True):
        alone, _ = forward.read(torch.cat([before, last[0]])[None])
        assert torch.allclose(row, alone[0], atol=1e-5)
