"""What a student is told at each place: from teachers and settings to targets and a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.rows import Weighted
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.passes import as_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import DistillationLoss
    from evomerge.refinement import sequences
    from evomerge.refinement.data import Example
    from evomerge.refinement.distil import Distillation
    from evomerge.refinement.losses.rows import RowLoss
    from evomerge.refinement.passes import Targets
    from evomerge.refinement.student import MakeLoss


class Tell(Protocol):
    """Told how far a piece of work is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what is done, how much of it, and of how much."""


def targets_of(
    work: Distillation,
    library: SourceLibrary,
    examples: Sequence[Example],
    read: Sequence[sequences.Sequence],
    tell: Tell,
) -> tuple[Targets | None, dict[str, Any]]:
    if not work.teachers:
        return None, {}
    raise NotImplementedError


def loss_of(settings: DistillationLoss, vocabulary: int, *, taught: bool) -> MakeLoss:
    """What makes the loss of a pass.

    Args:
        settings: Which loss, and its weights.
        vocabulary: Number of tokens.
        taught: Whether there are teachers; without them it is the cross entropy.
    """

    def make(labels: Tensor, targets: Mapping[str, Tensor]) -> RowLoss:
        own = CrossEntropy(labels)
        if not taught:
            return own
        distilled = TopKDivergence(as_predictions(targets, vocabulary), settings.tail)
        return Weighted([(settings.distillation, distilled), (settings.cross_entropy, own)])

    return make
