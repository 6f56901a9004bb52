"""The model that learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.losses.chunked import chunked_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evomerge.refinement.losses.rows import RowLoss

    MakeLoss = Callable[[Mapping[str, Tensor]], RowLoss]
    """From all that belongs to a pass, by the names of `Student.forward`, to its loss."""


class Student(nn.Module):
    """A causal language model that answers a pass with its loss.

    The logits of a pass are never all in memory: only places where something is to be predicted
    meet the output head, and a few at a time.

    Args:
        model: A causal language model of transformers.
        make_loss: Makes the loss of a pass from its targets.
        vocabulary: The tokenizer's size.
        precision: What passes compute in, where that is not the model's own.
    """

    def __init__(
        self,
        model: Any,
        make_loss: MakeLoss,
        vocabulary: int | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._head = head_of(model, vocabulary)
        self._make_loss = make_loss
        self._precision = precision or model.dtype

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute activations twice, to save memory; what transformers' Trainer calls."""
        self.model.activation_checkpointing_enable(**options)

    def forward(
        self,
        *,
        ids: Tensor,
        positions: Tensor,
        predicting: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **targets: Tensor,
    ) -> dict[str, Tensor]:
        """The loss of a pass.

        Args:
            ids: Tokens, shape `(B, T)`.
            positions: Their places in their documents, of the same shape.
            predicting: Where something is to be predicted, as places in the flat `B * T`; shape
                `(N,)`.
            labels: The tokens that follow there; shape `(N,)`.
            num_items_in_batch: Labels of the whole optimiser step; of this pass when absent.
            targets: What teachers predict there.

        Returns:
            `loss`: the sum over labels, divided by the labels of the step; shape `()`.
        """
        inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        total = labels.numel() if num_items_in_batch is None else num_items_in_batch
        weights = torch.ones(len(labels), device=ids.device) / max(int(total), 1)
        read = {"ids": ids, "positions": positions, "predicting": predicting, "labels": labels}
        loss = self._make_loss(read | targets)
        mixed = self._precision != self.model.dtype
        with torch.autocast(ids.device.type, self._precision, enabled=mixed):
            hidden = last_hidden_states(self.model, **inputs).flatten(0, 1)[predicting]
            return {"loss": chunked_loss(hidden, self._head, loss, weights)}
