"""Forward passes of a live model, with logits only where they are wanted."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from evomerge.evaluation.passes.boundaries import LayerBoundaries
from evomerge.evaluation.passes.context import can_share
from evomerge.evaluation.passes.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

Place = tuple[int, int]
"""A row and a position in it."""


class Forward:
    """A causal language model of transformers, whose weights may change at any time.

    Attributes:
        model: The model.
        sees_all: Whether its tokens attend to all that come before, at positions that are given
            to it: then rows may share contexts, and what was attended to may be kept.
        boundaries: Where passes may start; to be told when weights have changed.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sees_all = can_share(model)
        # Models that do not see all may hand keys or states on to layers far above, too.
        self.boundaries = LayerBoundaries(model, alone=self.sees_all)
        self._head = model.get_output_embeddings()

    def logits(
        self,
        inputs: Mapping[str, Any],
        places: Sequence[Place],
        *,
        name: Hashable = None,
        fills: Keys | None = None,
    ) -> Tensor:
        """Run the model.

        Args:
            inputs: What its `forward` takes; masks in float32.
            places: Where logits are wanted.
            name: What tells this pass from others; None if it is not worth keeping.
            fills: What the pass fills for others to go on from.

        Returns:
            Shape `(len(places), vocabulary)`, float32.
        """
        device, dtype = self.model.device, self.model.dtype
        given = {name: _on(value, device) for name, value in inputs.items()}
        mask = given.get("attention_mask")
        if mask is not None and mask.is_floating_point():
            given["attention_mask"] = mask.to(dtype)
        rows, positions = torch.tensor(places, device=device).T
        kept = nullcontext() if name is None else self.boundaries.around(name, fills)
        with kept, self._only_at(rows, positions):
            found = self.model(**given).logits
        if found.shape[:2] != (1, len(places)):  # no head that could be told where to look
            found = found[rows, positions][None]
        return cast("Tensor", found[0].float())

    def read(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        keys: Keys | None = None,
        *,
        name: Hashable = None,
    ) -> tuple[Tensor, Keys]:
        """Read tokens that others will attend to; only for models that see all.

        Args:
            ids: Tokens, shape `(rows, length)`; the last one of every row is read.
            mask: 1 for what may be attended to, shape `(rows, length of keys + length)`.
            keys: What was read before; these tokens are appended to it.
            name: What tells this pass from others, if nothing was read before.

        Returns:
            The logits behind the last token of each row, shape `(rows, vocabulary)`, float32, and
            what is attended to from now on.
        """
        rows, length = ids.shape
        keys = Keys() if keys is None else keys
        inputs = {"input_ids": ids, "past_key_values": keys.cache, "use_cache": True}
        if mask is not None:
            inputs["attention_mask"] = mask
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -length:]
        last = [(row, length - 1) for row in range(rows)]
        return self.logits(inputs, last, name=name, fills=keys), keys

    @contextmanager
    def _only_at(self, rows: Tensor, positions: Tensor) -> Iterator[None]:
        """Let the head see some places only: a vocabulary is wider than many layers together."""

        def pick(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, *rest = arguments
            return (hidden[rows, positions][None], *rest)

        if self._head is None:
            yield
            return
        hook = self._head.register_forward_pre_hook(pick)
        try:
            yield
        finally:
            hook.remove()


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
