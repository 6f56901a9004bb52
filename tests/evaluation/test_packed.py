"""Promise: packed weights are the same weights, for as long as a model is evaluated."""

from __future__ import annotations

import pytest
import torch
from evaluated_models import VOCABULARY, llama
from torch import nn

from evomerge.evaluation.passes import packed
from evomerge.evaluation.passes.packed import packed_linears

TOKENS = torch.arange(VOCABULARY)[None]


@torch.inference_mode()
def test_a_model_computes_the_same_up_to_the_last_bits() -> None:
    model = llama()
    plain = model(TOKENS).logits
    with packed_linears(model):
        assert torch.allclose(model(TOKENS).logits, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(TOKENS).logits, plain)


@torch.inference_mode()
def test_weights_that_changed_are_packed_anew() -> None:
    model = llama()
    for _ in range(2):
        with packed_linears(model):
            found = model(TOKENS).logits
        assert torch.allclose(found, model(TOKENS).logits, rtol=1e-4, atol=1e-5)
        model.lm_head.weight.mul_(2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_only_float32_layers_are_packed(dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 4, dtype=dtype)
    with packed_linears(layer):
        assert "forward" not in vars(layer)


def test_layers_are_as_before_even_after_an_error() -> None:
    layer = nn.Linear(3, 4)
    with pytest.raises(RuntimeError), packed_linears(layer):
        layer(torch.ones(2, 5))
    assert "forward" not in vars(layer)


def test_without_what_packing_needs_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_AVAILABLE", False)
    layer = nn.Linear(3, 4)
    with packed_linears(layer):
        assert "forward" not in vars(layer)


def test_a_build_of_torch_without_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    assert packed._available()
    monkeypatch.setattr(torch.ops, "mkldnn", Without())
    assert not packed._available()
