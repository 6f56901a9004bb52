"""Teachers that run beside their student, for losses that need all that they predict."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CompatibilityError
from evomerge.live_model import (
    choose_device,
    choose_dtype,
    load_checkpoint,
    load_model,
    named_weights,
)
from evomerge.merging.resident import ResidentWeights
from evomerge.refinement.alignment.same import relate
from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.teachers import live_fusion
from evomerge.refinement.texts.packing import keeps_apart
from evomerge.refinement.texts.sequences import check_window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import Refinement
    from evomerge.refinement.distillation import Distillation
    from evomerge.refinement.heads import Head
    from evomerge.refinement.losses.divergence import LogitsOf
    from evomerge.refinement.texts import sequences

    Fuse = Callable[[Tensor, Tensor], Tensor]
    """Makes one teacher of the logits of several, shape `(models, n, V)`, and the labels."""


class LiveTeachers:
    """Teachers that read each pass as the student does.

    Args:
        models: Causal language models of transformers, with the student's tokenizer.
        vocabulary: Its size.
        fuse: How several become one; None if there is one.
    """

    def __init__(self, models: Sequence[Any], vocabulary: int, fuse: Fuse | None) -> None:
        self._models = models
        self._heads = [head_of(model, vocabulary) for model in models]
        self._fuse = fuse

    def keep_apart(self) -> bool:
        """Whether all of them read packed sequences as if alone."""
        return all(map(keeps_apart, self._models))

    @torch.no_grad()
    def __call__(self, read: Mapping[str, Tensor]) -> LogitsOf:
        """What they predict at the rows of a pass, as logits."""
        inputs = {"input_ids": read["ids"], "position_ids": read["positions"], "use_cache": False}
        hidden = [
            last_hidden_states(model, **inputs).flatten(0, 1)[read["predicting"]]
            for model in self._models
        ]
        each = [logits_of(head, h) for head, h in zip(self._heads, hidden, strict=True)]
        fuse, labels = self._fuse, read["labels"]
        if fuse is None:
            return each[0]
        return lambda rows: fuse(torch.stack([own(rows) for own in each]), labels[rows])


def logits_of(head: Head, hidden: Tensor) -> LogitsOf:
    """The logits of a teacher, as losses ask for them, without gradients.

    Args:
        head: The teacher's.
        hidden: The teacher's last hidden states at the rows of the loss; shape `(N, H)`.
    """
    hidden = hidden.detach()

    @torch.no_grad()
    def logits(rows: slice) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return head.logits(hidden[rows])

    return logits


def open_live_teachers(
    work: Distillation, library: SourceLibrary, read: Sequence[sequences.Sequence], vocabulary: int
) -> LiveTeachers | None:
    """The teachers that run beside the student; None if there are none, or nobody asks them.

    Args:
        work: The student, its teachers and settings.
        library: Opens models.
        read: What they will read.
        vocabulary: The size of the student's tokenizer.

    Raises:
        RecipeError: Several teachers cannot become one by the rule that is asked for.
        CompatibilityError: A teacher has another tokenizer, or cannot read texts that long.
        ModelError: A teacher cannot be loaded.
    """
    if not work.teachers or work.settings.cache is not None:
        return None
    fuse = _fuse_of(work.settings, len(work.teachers))
    device = choose_device(work.device)
    dtype = choose_dtype(work.dtype, device)
    base = library.model(work.student.base)
    models = []
    for teacher in work.teachers:
        checkpoint = library.model(teacher.model)
        relation = relate(base.folder, checkpoint.folder)
        if relation.kind != "same":
            raise CompatibilityError(
                f"{teacher.label}: {relation.explanation}; loss.kind {work.settings.loss.kind} "
                "needs the student's tokenizer: take a teacher that has it, or a loss with a cache"
            )
        model, _ = load_checkpoint(checkpoint, dtype, device)
        try:
            check_window(model, read)
        except CompatibilityError as error:
            raise CompatibilityError(f"{teacher.label}: {error}") from error
        models.append(model)
    if work.settings.fuse == "dynamic":
        merge, _ = load_model(base.folder, dtype, device)
        ResidentWeights(named_weights(merge, base.headers), library).merge(work.student)
        models = [merge, load_checkpoint(base, dtype, device)[0], *models]
    return LiveTeachers(models, vocabulary, fuse)


def _fuse_of(settings: Refinement, teachers: int) -> Fuse | None:
    settings.check_live_fusion(teachers)
    if settings.fuse == "dynamic":
        # The merge as it was, the base, and the experts.
        return lambda logits, _: live_fusion.dynamic(logits[0], logits[1], logits[2:])
    if teachers == 1:
        return None
    rule: Any = settings.fuse or "min_ce"
    return partial(live_fusion.fuse, rule=rule, per_token=settings.fuse_by == "token")
