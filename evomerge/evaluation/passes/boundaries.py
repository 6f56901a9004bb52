"""Hidden states between layers, kept so that layers that are as before need not run again.

A search that varies some layers only, or sources that differ in some only, give many candidates
whose first layers are equal. What these compute is kept where candidates were seen to part, and
the next one with the same first layers starts there. Its results are the same bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from evomerge.evaluation.passes.keys import Keys

MOST_BYTES = 1 << 30
"""Room for hidden states; those that were not used for longest make room for others."""

REMEMBERED = 64
"""Number of models whose layers are compared with those of a new one."""

Digests = tuple[bytes, ...]
"""Content of what comes before the first layer, of the first layer, of the second and so on."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What reaches a layer in one forward pass, and what the layers below it keep of it."""

    hidden: Tensor
    kept: Sequence[tuple[Tensor, Tensor]]

    @property
    def size(self) -> int:
        tensors = [self.hidden, *(tensor for pair in self.kept for tensor in pair)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(slots=True)
class _Boundary:
    """All passes that were seen at a boundary, by their names."""

    passes: dict[Hashable, _Pass] = field(default_factory=dict)
    size: int = 0


class LayerBoundaries:
    """Starts forward passes of a model at the first layer that is not as it was.

    Args:
        model: A causal language model of transformers, on any device.
        most_bytes: Room for hidden states.
        alone: Whether each layer needs nothing of others but what the one below hands on; if not,
            models always run from their beginning.
    """

    def __init__(self, model: Any, most_bytes: int = MOST_BYTES, *, alone: bool = True) -> None:
        self._layers, self._below = _layers(model) if alone else ([], [])
        self._most_bytes = most_bytes
        self._seen: OrderedDict[Digests, None] = OrderedDict()
        self._boundaries: OrderedDict[Digests, _Boundary] = OrderedDict()
        self._start: Digests = ()
        self._record: Digests = ()
        self._tuples = False

    def look(self) -> None:
        """Look at the weights; to be called whenever they may have changed."""
        parts = [self._below, *([layer] for layer in self._layers[:-1])]
        digests = tuple(map(_digest, parts))
        shared = max((_common(digests, seen) for seen in self._seen), default=0)
        self._seen[digests] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        prefixes = [digests[:length] for length in range(shared, 1, -1)]
        self._start = next((each for each in prefixes if each in self._boundaries), ())
        self._record = prefixes[0] if prefixes and prefixes[0] != self._start else ()
        if self._start:
            self._boundaries.move_to_end(self._start)

    @property
    def skipped(self) -> int:
        """Number of layers that need not run in passes that were seen before."""
        return max(0, len(self._start) - 1)

    @contextmanager
    def around(self, name: Hashable, fills: Keys | None = None) -> Iterator[None]:
        """Let a forward pass start where it may, and keep what the next one needs.

        Args:
            name: What tells the pass from others with the same weights.
            fills: What the pass fills for others to go on from, if it does.
        """
        cache = fills.cache if fills is not None else None
        known = self._boundaries.get(self._start)
        seen = known.passes.get(name) if known else None
        # Where nothing is new but this pass, as on other items, it is kept for the next one.
        record = self._record or (self._start if seen is None else ())
        with _bypassed(self._layers[: self.skipped], seen, cache, tuples=self._tuples):
            if not record:
                yield
                return
            depth = len(record) - 1
            reached: list[Tensor] = []
            hook = self._layers[depth].register_forward_pre_hook(
                lambda _, arguments, named: reached.append(
                    (arguments[0] if arguments else named["hidden_states"]).clone()
                ),
                with_kwargs=True,
            )
            kind = self._layers[0].register_forward_hook(self._note_kind)
            try:
                yield
            finally:
                hook.remove()
                kind.remove()
            kept = cache.layers[:depth] if cache is not None else ()
            pairs = [(layer.keys.clone(), layer.values.clone()) for layer in kept]
            self._keep(record, name, _Pass(reached[0], pairs))

    def _note_kind(self, _: Any, __: Any, output: Any) -> None:
        self._tuples = isinstance(output, tuple)

    def _keep(self, where: Digests, name: Hashable, made: _Pass) -> None:
        boundary = self._boundaries.setdefault(where, _Boundary())
        boundary.passes[name] = made
        boundary.size += made.size
        while sum(each.size for each in self._boundaries.values()) > self._most_bytes:
            self._boundaries.popitem(last=False)


@contextmanager
def _bypassed(
    layers: Sequence[nn.Module], seen: _Pass | None, cache: Any, *, tuples: bool
) -> Iterator[None]:
    """Let layers return what reached the layer behind them in an earlier pass."""
    if seen is None:
        yield
        return

    def stand_in(number: int) -> Callable[..., Any]:
        def forward(*_: object, **__: object) -> Any:
            if cache is not None:
                cache.update(*seen.kept[number], layer_idx=number)
            return (seen.hidden,) if tuples else seen.hidden

        return forward

    for number, layer in enumerate(layers):
        layer.forward = stand_in(number)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The decoder's layers, and the modules whose weights are used before them."""
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.base_model.modules():
        below: list[nn.Module] = []
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return list(child), below
            below.append(child)
    return [], []


def _digest(modules: Sequence[nn.Module]) -> bytes:
    found = blake3()
    for module in modules:
        for tensor in module.state_dict().values():
            content = tensor.detach().contiguous().view(-1).view(torch.uint8)
            found.update(content.cpu().numpy().data)
    return found.digest()


def _common(first: Digests, second: Digests) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
