"""Runs the decoder layers of a causal language model one at a time, with any weights."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer is called with besides its hidden states: masks, positions.

    Attributes:
        arguments: Positional ones.
        options: By keyword.
    """

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


class Decoder:
    """The layers of a live model, to be copied and run one by one.

    Args:
        model: A causal language model of transformers.
        stored: The stored name of each of its parameters, by their live name.

    Raises:
        ModelError: The model has no list of layers.
    """

    def __init__(self, model: Any, stored: Mapping[str, str]) -> None:
        self._model = model
        wanted = getattr(model.config, "num_hidden_layers", 0)
        lists = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == wanted > 0
        ]
        if not lists:
            raise ModelError(
                f"{type(model).__name__}: has no list of {wanted} layers; only decoders are "
                "calibrated layer by layer"
            )
        self._prefix, self._layers = lists[0]
        if not linears(self._layers[0]):
            raise ModelError(
                f"{type(model).__name__}: its layers have no linear layers with inputs last; only "
                "such are calibrated layer by layer"
            )
        self._stored = stored

    def __len__(self) -> int:
        return len(self._layers)

    def names(self, index: int) -> dict[str, str]:
        """The stored name of each parameter of a layer, by its name within the layer."""
        prefix = f"{self._prefix}.{index}."
        return {
            live.removeprefix(prefix): name
            for live, name in self._stored.items()
            if live.startswith(prefix)
        }

    def layer(self, index: int, read: Callable[[str], Tensor]) -> nn.Module:
        """A copy of a layer with the weights of another model.

        Args:
            index: Which layer.
            read: Gives a tensor by its stored name.
        """
        made: nn.Module = copy.deepcopy(self._layers[index])
        names = self.names(index)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.copy_(read(names[name]))
        return made

    def set_outside(self, read: Callable[[str], Tensor]) -> None:
        """Put the weights of another model into everything but the layers."""
        with torch.no_grad():
            for live, parameter in self._model.named_parameters():
                if not live.startswith(f"{self._prefix}."):
                    parameter.copy_(read(self._stored[live]))

    @torch.no_grad()
    def begin(self, text: Tensor) -> tuple[Tensor, list[Call]]:
        """What the layers are called with for a text.

        Args:
            text: Token ids, shape `(tokens,)`.

        Returns:
            The hidden states that the first layer reads, shape `(1, tokens, width)`, and the call
            of every layer.
        """
        hidden: list[Tensor] = []
        calls: list[Call] = []

        def take(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            rest = dict(options)
            states, *others = arguments or (rest.pop("hidden_states"),)
            hidden.append(states)
            calls.append(Call(tuple(others), rest))

        handles = [
            layer.register_forward_pre_hook(take, with_kwargs=True) for layer in self._layers
        ]
        try:
            self._model(input_ids=text[None].to(self._model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return hidden[0], calls


@torch.no_grad()
def run(layer: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    """The hidden states after a layer, shaped as those before it."""
    return run_with({}, layer, hidden, call)


def run_with(
    weights: Mapping[str, Tensor], layer: nn.Module, hidden: Tensor, call: Call
) -> Tensor:
    """The same with other weights by their name in the layer, which gradients flow to."""
    found = torch.func.functional_call(
        layer, dict(weights), (hidden, *call.arguments), dict(call.options)
    )
    result: Tensor = found[0] if isinstance(found, tuple) else found
    return result


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside a layer, by name."""
    return {name: each for name, each in layer.named_modules() if isinstance(each, nn.Linear)}


@contextmanager
def watched(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep what the linear layers inside a layer read in its last run.

    Yields:
        Inputs of shape `(tokens, in)` by the linear layer's name.
    """
    reads: dict[str, Tensor] = {}
    handles = []

    def take(name: str, module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        reads[name] = inputs[0].reshape(-1, module.in_features)

    for name, module in linears(layer).items():
        handles.append(module.register_forward_pre_hook(partial(take, name)))
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()
