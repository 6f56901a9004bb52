"""Teachers that run beside their student, for losses that need all that they predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.live_model import choose_device, choose_dtype, load_checkpoint
from evomerge.refinement import live_fusion
from evomerge.refinement.alignment.same import relate
from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.live_teacher import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import Fusion, Refinement
    from evomerge.refinement.distil import Distillation
    from evomerge.refinement.losses.divergence import LogitsOf
    from evomerge.refinement.teacher_weights import Rule


class Beside:
    """Teachers that read each pass as the student does.

    Args:
        models: Causal language models of transformers, with the student's tokenizer.
        vocabulary: Its size.
        rule: How several become one.
        per_token: Whether they have weights of their own at each token.
    """

    def __init__(
        self, models: Sequence[Any], vocabulary: int, rule: Rule, *, per_token: bool
    ) -> None:
        self._models = models
        self._heads = [head_of(model, vocabulary) for model in models]
        self._rule, self._per_token = rule, per_token

    @torch.no_grad()
    def __call__(self, read: Mapping[str, Tensor]) -> LogitsOf:
        """What they predict at the rows of a pass, as logits."""
        inputs = {"input_ids": read["ids"], "position_ids": read["positions"], "use_cache": False}
        hidden = [
            last_hidden_states(model, **inputs).flatten(0, 1)[read["predicting"]]
            for model in self._models
        ]
        each = [logits_of(head, h) for head, h in zip(self._heads, hidden, strict=True)]
        return each[0] if len(each) == 1 else self._fused(each, read["labels"])

    def _fused(self, each: Sequence[Callable[[slice], Tensor]], labels: Tensor) -> LogitsOf:
        def logits(rows: slice) -> Tensor:
            own = torch.stack([teacher(rows) for teacher in each])
            return live_fusion.fuse(own, labels[rows], self._rule, per_token=self._per_token)

        return logits


def beside_of(work: Distillation, library: SourceLibrary, vocabulary: int) -> Beside | None:
    """The teachers that run beside the student; None if there are none, or all have caches.

    Raises:
        RecipeError: Several teachers cannot become one by the rule that is asked for.
        CompatibilityError: A teacher has another tokenizer.
        ModelError: A teacher cannot be loaded.
    """
    if not work.teachers or work.settings.cache is not None:
        return None
    rule = _rule(work.settings, len(work.teachers))
    student, device = library.model(work.student.base), choose_device(work.device)
    models = []
    for teacher in work.teachers:
        checkpoint = library.model(teacher.model)
        relation = relate(student.folder, checkpoint.folder)
        if relation.kind != "same":
            raise CompatibilityError(
                f"{teacher.label}: {relation.explanation}; loss.kind {work.settings.loss.kind} "
                "needs the student's tokenizer: take a teacher that has it, or a loss with a cache"
            )
        models.append(load_checkpoint(checkpoint, choose_dtype(work.dtype, device), device)[0])
    return Beside(models, vocabulary, rule, per_token=work.settings.fuse_by == "token")


def _rule(settings: Refinement, teachers: int) -> Rule:
    rule: Fusion = settings.fuse or "min_ce"
    if teachers == 1:
        return "min_ce"
    if rule == "by_domain" or (
        settings.fuse_by == "sequence" and rule not in {"avg_logits", "avg_probs"}
    ):
        raise RecipeError(
            f"fuse: {rule} of {teachers} teachers beside the student; allowed: avg_logits, "
            "avg_probs, or any but by_domain with fuse_by: token; or take mode: pairwise"
        )
    return rule
