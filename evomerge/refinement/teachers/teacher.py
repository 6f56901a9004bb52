"""Runs a teacher: its head sees supervised positions only, and a few of them at a time."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import CompatibilityError, EvaluationError
from evomerge.operators.randomness import generator
from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.predictions.kept import concatenate, sampled, top_k
from evomerge.refinement.texts.packing import Pack, lay_out
from evomerge.refinement.texts.sequences import check_window

if TYPE_CHECKING:
    from collections import abc

    from torch import Tensor

    from evomerge.refinement.predictions.kept import Kept
    from evomerge.refinement.predictions.top_k import TopK
    from evomerge.refinement.texts.sequences import Sequence

CHUNK_BYTES = {"cpu": 64_000_000, "cuda": 256_000_000}
"""Memory that the logits of a chunk may take."""


class Teacher:
    """A causal language model of transformers in two halves: its layers, and its head.

    Args:
        model: The model, in evaluation mode.

    Raises:
        ModelError: What its head does is not known; see `head_of`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._head = head_of(model)

    def hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states of padded rows, shape `(rows, longest, width)`."""
        # A causal model never looks at padding on the right: no mask is needed.
        return last_hidden_states(self.model, input_ids=ids.to(self.model.device), use_cache=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states: from shape `(n, width)` to `(n, rows of the head)`, float32."""
        return self._head.logits(hidden)

    @torch.no_grad()
    def predict(self, sequences: abc.Sequence[Sequence], kept: Kept) -> list[TopK]:
        """Predict the supervised tokens of sequences that are read in one pass.

        Args:
            sequences: The sequences, best of about the same length.
            kept: What is kept.

        Returns:
            For each sequence a row for each supervised token, on the CPU.

        Raises:
            CompatibilityError: A sequence has tokens that are not in the vocabulary, or too many.
            EvaluationError: The model predicts NaN.
        """
        check_window(self.model, sequences)
        batch = lay_out([Pack(sequences=(sequence,)) for sequence in sequences])
        if (highest := int(batch.ids.max())) >= kept.vocabulary:
            raise CompatibilityError(
                f"token {highest} is not in the teacher's vocabulary of {kept.vocabulary}; its "
                "tokenizer leaves numbers out: name another model under teachers"
            )
        hidden = self.hidden(batch.ids).flatten(0, 1)
        places = batch.predicting().to(hidden.device)
        labels = batch.labels().to(hidden.device)
        draws = _draws(sequences, kept).to(hidden.device)
        parts = []
        size = _chunk(kept.vocabulary, hidden.device)
        for chunk in (slice(start, start + size) for start in range(0, len(places), size)):
            logits = self.logits(hidden[places[chunk]])[:, : kept.vocabulary]
            if kept.kind == "topk":
                rows = top_k(logits, labels[chunk], kept.k)
            else:
                rows = sampled(logits, labels[chunk], draws[chunk])
            parts.append(rows.each(lambda own: own.cpu()))
        rows = concatenate(parts)
        if not rows.nll.isfinite().all():
            raise EvaluationError("the teacher's log-probabilities are NaN or infinite")
        return _split(rows, [int(sequence.supervised.sum()) for sequence in sequences])


def _draws(sequences: abc.Sequence[Sequence], kept: Kept) -> Tensor:
    """Random numbers for each supervised token, which do not depend on what is read with it."""
    counts = [int(sequence.supervised.sum()) for sequence in sequences]
    if kept.kind == "topk":
        return torch.empty(sum(counts), 0)
    names = (sequence.digest() for sequence in sequences)
    sources = (generator(0, "draws of a teacher", name) for name in names)
    parts = zip(counts, sources, strict=True)
    return torch.cat([torch.rand((n, kept.k), generator=source) for n, source in parts])


def _chunk(vocabulary: int, device: torch.device) -> int:
    """Positions of which the head makes logits at a time."""
    # The model's own logits, those in float32 with and without their mean, and what is looked for.
    return max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"]) // (vocabulary * 16))


def _split(rows: TopK, counts: list[int]) -> list[TopK]:
    return [
        rows.each(lambda own, part=slice(start, stop): own[part])  # type: ignore[misc]
        for start, stop in pairwise([0, *accumulate(counts)])
    ]
