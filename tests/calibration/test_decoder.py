"""Layers that are run one by one make what the whole model makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_architectures import CAUSAL, build

from evomerge.calibration.decoder import Decoder, linears, run, watched
from evomerge.errors import ModelError

TEXT = torch.tensor([3, 1, 4, 1, 5, 9])
NAMES = ["Llama", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "GPTNeoX", "Cohere", "SmolLM3"]


def decoder_of(model: Any) -> Decoder:
    return Decoder(model, {name: name for name, _ in model.named_parameters()})


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_in_a_row_are_the_model(name: str) -> None:
    model = build(*CAUSAL[name])
    decoder = decoder_of(model)
    hidden, calls = decoder.begin(TEXT)
    for index in range(len(decoder)):
        layer = decoder.layer(index, model.get_parameter)
        hidden = run(layer, hidden, calls[index])
    last = []
    norm = next(
        m for n, m in model.named_modules() if n.split(".")[-1] in {"norm", "final_layer_norm"}
    )
    handle = norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    with torch.no_grad():
        model(input_ids=TEXT[None])
    handle.remove()
    torch.testing.assert_close(hidden, last[0])


def test_a_layer_takes_the_weights_of_another_model() -> None:
    model, other = build(*CAUSAL["Llama"]), build(*CAUSAL["Llama"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    layer = decoder_of(model).layer(1, other.get_parameter)
    for name, parameter in layer.named_parameters():
        assert torch.equal(parameter, other.get_parameter(f"model.layers.1.{name}"))
        assert not torch.equal(parameter, model.get_parameter(f"model.layers.1.{name}"))


def test_linear_layers_are_watched_as_long_as_asked() -> None:
    model = build(*CAUSAL["Llama"])
    decoder = decoder_of(model)
    hidden, calls = decoder.begin(TEXT)
    layer = decoder.layer(0, model.get_parameter)
    with watched(layer) as reads:
        run(layer, hidden, calls[0])
    assert reads.keys() == linears(layer).keys()
    assert {name.rpartition(".")[2]: tuple(each.shape) for name, each in reads.items()} == {
        "q_proj": (6, 16),
        "k_proj": (6, 16),
        "v_proj": (6, 16),
        "o_proj": (6, 16),
        "gate_proj": (6, 16),
        "up_proj": (6, 16),
        "down_proj": (6, 24),
    }
    seen = dict(reads)
    run(layer, hidden + 1, calls[0])
    assert reads == seen


def test_layers_that_store_inputs_first_are_refused() -> None:
    with pytest.raises(ModelError, match="GPT2LMHeadModel: its layers have no linear layers with"):
        decoder_of(build(*CAUSAL["GPT2"]))


def test_a_model_without_layers_is_refused() -> None:
    model: Any = torch.nn.Linear(2, 2)
    model.config = type("Config", (), {"num_hidden_layers": 3})
    with pytest.raises(ModelError, match="Linear: has no list of 3 layers"):
        decoder_of(model)
