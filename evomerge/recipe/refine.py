"""How a merge is refined: by which teachers, on which texts, and with which loss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from evomerge.checkpoints import resolve_reference
from evomerge.errors import ModelError, RecipeError, did_you_mean
from evomerge.recipe.distillation import (
    ALIGNED_BY,
    IN_STUDENTS_TOKENS,
    LIVE,
    Alignment,
    DistillationLoss,
    Rate,
    Share,
    TeacherCacheSettings,
    Teachers,
)
from evomerge.recipe.paths import absolute
from evomerge.recipe.presets import PresetName, with_preset
from evomerge.recipe.schema import Flag, Natural, Positive, Seed, Strict, Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from typing_extensions import Self

    from evomerge.recipe.distillation import AlignmentKind, Teacher

Fusion = Literal[
    "by_domain", "min_ce", "avg_ce", "ce_weighted", "avg_logits", "avg_probs", "sum", "dynamic"
]


UNUSED: dict[str, tuple[str, ...]] = {
    "lora": (),
    "full": ("layers",),
    "coefficients": ("layers", "warmup", "gradient_checkpointing"),
    "layerwise": ("layers", "tokens", "warmup", "gradient_checkpointing"),
}
"""Settings of a training that would change nothing, by what is trained."""


class RefineData(Strict):
    """The texts that the student learns on; none may be an item of the search.

    Attributes:
        path: A `.txt` file with a document per line, or a `.jsonl` file of objects with `text`,
            with `prompt` and `completion`, or with `messages`, and perhaps a `domain`; relative
            to the recipe.
        max_tokens: A longer text is cut to its first so many tokens.
        validation: Share of the texts that tells when to stop, and is not learned from.
    """

    path: Text
    max_tokens: Positive = 512
    validation: Share = 0.1


class Training(Strict):
    """How the student is trained.

    Attributes:
        what: `lora`, a low-rank update; `full`, all weights, in float32; `coefficients`, those of
            the merge only; `layerwise`, element-wise coefficients layer by layer (ProDistill).
        rank: Rank of the update.
        alpha: The update is multiplied by `alpha / rank`; twice the rank when absent.
        layers: Of `lora`: trained layers as `[first, end]`; when absent those that the merge has
            changed, or all.
        rate: Highest learning rate; by what is trained when absent.
        epochs: How often each text is read.
        tokens: Most tokens that are read; ends the training before its epochs.
        batch_tokens: Most tokens of an optimiser step.
        pass_tokens: Most tokens of one forward pass, at most those of a step, which adds up
            several.
        warmup: Of `lora` and `full`: share of the steps in which the rate rises.
        checkpoints: How often in the course of the training it is saved, and compared with
            before.
        patience: The training stops after so many comparisons without a gain.
        gradient_checkpointing: Of `lora` and `full`: compute activations twice, to save memory.
        seed: Seeds the update and the order of texts.
    """

    what: Literal["lora", "full", "coefficients", "layerwise"] = "lora"
    rank: Annotated[Positive, Field(le=65_535)] = 16
    alpha: Annotated[Positive, Field(le=65_535)] | None = None
    layers: tuple[Natural, Positive] | None = None
    rate: Rate | None = None
    epochs: Annotated[Positive, Field(le=10_000)] = 1
    tokens: Positive | None = None
    batch_tokens: Positive = 2048
    pass_tokens: Positive = 2048
    warmup: Share = 0.03
    checkpoints: Positive = 8
    patience: Positive = 3
    gradient_checkpointing: Flag = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _what_is_set_is_used(self) -> Self:
        for name in UNUSED[self.what]:
            if (found := getattr(self, name)) != type(self).model_fields[name].default:
                able = " or ".join(what for what, unused in UNUSED.items() if name not in unused)
                raise ValueError(
                    f"{name}: {json.dumps(found)} changes nothing with what: {self.what}; leave "
                    f"it out, or take {able}"
                )
        return self

    @property
    def tokens_at_once(self) -> int:
        """Most tokens of a forward pass: it cannot have more than its optimiser step."""
        return min(self.pass_tokens, self.batch_tokens)

    def whole(self) -> Training:
        """The same without a limit of tokens."""
        return self.model_copy(update={"tokens": None})


class Refinement(Strict):
    """How the winner is refined: distilled from teachers, compared, and kept if it is no worse.

    Attributes:
        preset: Settings of a published system, which the others change: `default`, `infifusion`,
            `fusellm`, `fusechat` or `feddf`.
        data: The texts.
        teachers: The models to learn from; the sources of the search when absent.
        mode: `unified`, all teachers at once, or `pairwise`, a student for each teacher, which
            learns the texts of its teacher's domains, if there are any; merged by `operator`.
        operator: What merges the students of `pairwise`.
        fuse: How several teachers become one; when absent `by_domain` if every text has one of
            their domains, else `min_ce`. With `sum` each has a loss of its own; with `dynamic`
            the merge as it was moves as far as they did from the base.
        fuse_by: Whether teachers are fused for each `sequence` or each `token`.
        with_student: With `fuse: min_ce`, the student as it was is one of the teachers.
        loss: What mistakes are measured by.
        cache: What is written down of the teachers; null has them run beside the student.
        alignment: How teachers with another tokenizer are read.
        train: How the student is trained.
        control: Train another student on the texts alone, to compare with; of the winner of a run,
            whose items compare them.
    """

    preset: PresetName = "default"
    data: RefineData
    teachers: Teachers = None
    mode: Literal["unified", "pairwise"] = "unified"
    operator: Text = "linear"
    fuse: Fusion | None = None
    fuse_by: Literal["sequence", "token"] = "sequence"
    with_student: Flag = False
    loss: DistillationLoss = DistillationLoss()
    cache: TeacherCacheSettings | None = TeacherCacheSettings()
    alignment: Alignment = Alignment()
    train: Training = Training()
    control: Flag = True

    @model_validator(mode="before")
    @classmethod
    def _starts_from_preset(cls, data: Any) -> Any:
        return with_preset(data)

    @model_validator(mode="after")
    def _teachers_are_as_the_loss_needs(self) -> Self:
        if self.cache is not None and self.loss.kind in LIVE:
            raise ValueError(
                f"loss.kind: {self.loss.kind} needs all that a teacher predicts; write "
                "cache: null, or take top_k_kl"
            )
        if self.cache is None and self.loss.kind not in LIVE:
            raise ValueError(f"loss.kind: {self.loss.kind} needs a cache; take kl without one")
        if self.cache is not None and (self.loss.kind == "sampled_kl") != (
            self.cache.kind == "sampled"
        ):
            raise ValueError(
                "cache.kind: sampled goes with loss.kind sampled_kl, and only with it"
            )
        if self.train.what == "layerwise" and self.mode == "pairwise":
            raise ValueError("mode: pairwise has a student for each teacher; layerwise has one")
        if self.fuse == "dynamic" and self.cache is not None:
            raise ValueError(
                "fuse: dynamic needs all that teachers predict; write cache: null, and take "
                "loss.kind kl, reverse_kl, jsd or standardised_kl"
            )
        if self.fuse == "avg_logits" and self.loss.kind == "sampled_kl":
            raise ValueError(
                "fuse: avg_logits needs tokens that all teachers have; take avg_probs"
            )
        return self

    @model_validator(mode="after")
    def _what_is_kept_is_enough(self) -> Self:
        kind, top = self.loss.kind, self.loss.top
        if self.cache is not None and kind == "standardised_uld" and self.cache.k < top:
            raise ValueError(f"cache.k: {self.cache.k}, less than loss.top: {top}; keep as many")
        if self.with_student and (self.fuse != "min_ce" or self.cache is None):
            raise ValueError("with_student: goes with fuse: min_ce and a cache")
        return self

    @model_validator(mode="after")
    def _tokens_find_partners_as_the_loss_needs(self) -> Self:
        kind, alignment = self.loss.kind, self.alignment_kind
        if kind in ALIGNED_BY and alignment not in ALIGNED_BY[kind]:
            raise ValueError(
                f"alignment.kind: {alignment} with loss.kind {kind}; allowed: "
                f"{', '.join(sorted(ALIGNED_BY[kind]))}"
            )
        if kind in IN_STUDENTS_TOKENS and alignment == "position":
            raise ValueError(
                f"alignment.kind: position with loss.kind {kind}, which compares tokens by what "
                "they are; allowed: prefixes, spans, exact, edit_distance, statistics"
            )
        averaged = self.fuse is not None and self.fuse not in {"by_domain", "min_ce", "sum"}
        if kind in ALIGNED_BY and averaged:
            raise ValueError(
                f"fuse: {self.fuse} with loss.kind {kind}; allowed: by_domain, min_ce, "
                "sum, or mode: pairwise"
            )
        return self

    @property
    def alignment_kind(self) -> AlignmentKind:
        """How the tokens of a teacher with another tokenizer find their partners."""
        by_loss: AlignmentKind = "spans" if self.loss.kind in ALIGNED_BY else "prefixes"
        return self.alignment.kind or by_loss

    def check_live_fusion(self, teachers: int) -> None:
        """Check that teachers beside the student can become one.

        Raises:
            RecipeError: They cannot.
        """
        if self.cache is not None or teachers < 2 or self.mode == "pairwise":
            return
        rule = self.fuse or "min_ce"
        whole = rule in {"avg_logits", "avg_probs", "dynamic"}
        by_token = self.fuse_by == "token" and rule not in {"by_domain", "sum"}
        if not (whole or by_token):
            raise RecipeError(
                f"fuse: {rule} of {teachers} teachers beside the student; allowed: avg_logits, "
                "avg_probs, dynamic, or min_ce, avg_ce or ce_weighted with fuse_by: token; or "
                "take mode: pairwise"
            )

    def under(self, root: Path, sources: Mapping[str, str] | None = None) -> Refinement:
        """The same with absolute paths, where those that are relative start from `root`.

        Args:
            root: A folder.
            sources: Models that a teacher may be called by their names.

        Raises:
            ModelError: A teacher is neither a folder nor a Hub id.
        """
        teachers = self.teachers and tuple(
            each.model_copy(
                update={"model": _model(each, root, sources or {}), "name": each.label}
            )
            for each in self.teachers
        )
        data = self.data.model_copy(update={"path": absolute(self.data.path, root)})
        cache = self.cache
        if cache is not None and cache.folder is not None:
            cache = cache.model_copy(update={"folder": absolute(cache.folder, root)})
        return self.model_copy(update={"teachers": teachers, "data": data, "cache": cache})


def _model(teacher: Teacher, root: Path, sources: Mapping[str, str]) -> str:
    try:
        return resolve_reference(sources.get(teacher.model, teacher.model), root=root)
    except ModelError as error:
        known = f" or one of the sources {', '.join(sources)}" if sources else ""
        hint = did_you_mean(teacher.model, sources)
        raise ModelError(f"teachers: {str(error).rstrip('.')}{known}{hint}") from error
