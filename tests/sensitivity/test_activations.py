"""Promise: activation statistics are those of the inputs that linear layers really get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from evomerge.sensitivity.activations import activation, gram, linear_widths
from evomerge.sensitivity.calibration import Document

if TYPE_CHECKING:
    from evomerge.sensitivity.calibration import Calibration


def inputs_of(model: Any, module: str, texts: list[Document]) -> torch.Tensor:
    """Everything a module reads, shape `(tokens, in)`."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].flatten(0, -2))
    )
    with torch.no_grad():
        for text in texts:
            model(input_ids=text.ids[None])
    handle.remove()
    return torch.cat(seen)


def test_every_linear_layer_is_found_and_a_tied_head_is_none(live: tuple[Any, Any]) -> None:
    widths = linear_widths(live[0])
    assert len(widths) == 2 * 7
    assert widths["model.layers.1.mlp.down_proj.weight"] == 48
    assert widths["model.layers.0.self_attn.q_proj.weight"] == 32


def test_gram_is_the_product_of_all_inputs_with_themselves(
    live: tuple[Any, Any], calibration: Calibration
) -> None:
    model, tokenizer = live
    texts = calibration.documents(tokenizer)
    modules = ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj")
    found = gram(model, [f"{module}.weight" for module in modules], texts)
    for module in modules:
        x = inputs_of(model, module, texts)
        assert len(x) == sum(len(text.ids) for text in texts)
        torch.testing.assert_close(found[f"{module}.weight"], x.T @ x, rtol=1e-4, atol=1e-4)


def test_activation_is_the_mean_size_of_each_input(
    live: tuple[Any, Any], calibration: Calibration
) -> None:
    model, tokenizer = live
    texts = calibration.documents(tokenizer)
    module = "model.layers.1.mlp.down_proj"
    found = activation(model, [f"{module}.weight"], texts)[f"{module}.weight"]
    torch.testing.assert_close(found, inputs_of(model, module, texts).abs().mean(dim=0))


def test_gpt2_layers_are_linear_too() -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=16, vocab_size=20)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # transformers draws from the global generator
        model = GPT2LMHeadModel(config).eval()
    texts = [Document(ids=torch.tensor([1, 2, 3]))]
    name = "transformer.h.0.mlp.c_proj"
    assert linear_widths(model)[f"{name}.weight"] == 32
    x = inputs_of(model, name, texts)
    torch.testing.assert_close(gram(model, [f"{name}.weight"], texts)[f"{name}.weight"], x.T @ x)


def test_a_layer_that_no_token_reaches_has_zeros() -> None:
    class Idle(torch.nn.Module):
        """A model with a layer that it never runs."""

        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.idle = torch.nn.Linear(3, 2, bias=False)

        def forward(self, **_: object) -> None:
            return None

    texts = [Document(ids=torch.tensor([1, 2]))]
    assert activation(Idle(), ["idle.weight"], texts)["idle.weight"].tolist() == [0, 0, 0]
