"""Whom a student learns from, and what its mistakes are measured by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from evomerge.recipe.merge import Name
from evomerge.recipe.schema import Number, Positive, Strict, Text

if TYPE_CHECKING:
    from typing_extensions import Self

Share = Annotated[Number, Field(ge=0, lt=1)]
Weight = Annotated[Number, Field(ge=0)]
Rate = Annotated[Number, Field(gt=0)]

TailName = Literal["ghost", "renormalised", "zero", "text"]

LossName = Literal[
    "top_k_kl",
    "sampled_kl",
    "kl",
    "reverse_kl",
    "jsd",
    "standardised_kl",
    "uld",
    "standardised_uld",
    "alm",
    "span_hybrid",
]

AlignmentKind = Literal["prefixes", "spans", "edit_distance", "statistics", "exact", "position"]

LIVE = frozenset({"kl", "reverse_kl", "jsd", "standardised_kl"})
"""Losses that need all that a teacher predicts, which is too much to be kept."""

IN_STUDENTS_TOKENS = frozenset({"top_k_kl", "sampled_kl"})
"""Losses that need rows in the student's vocabulary, and can average several teachers'."""

ALIGNED_BY: dict[str, frozenset[AlignmentKind]] = {
    "uld": frozenset({"position", "spans"}),
    "standardised_uld": frozenset({"position", "spans"}),
    "alm": frozenset({"spans"}),
    "span_hybrid": frozenset({"spans"}),
}
"""How tokens find their partners for losses that compare predictions of any vocabularies."""


class Teacher(Strict):
    """A model that the student learns from.

    Attributes:
        model: Folder, Hub id (`org/name@revision`) or adapter on top of one (`base+adapter`).
        name: Short name in tables; taken from the model's path when absent.
        domains: The domains of the texts that it teaches when teachers are fused `by_domain`; its
            own name when absent.
    """

    model: Text
    name: Name | None = None
    domains: tuple[Text, ...] = ()

    @property
    def label(self) -> str:
        """Its name, else the last part of its model's path."""
        return self.name or self.model.rstrip("/").rpartition("+")[2].rpartition("/")[2]


def _teacher_from_text(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _with_unique_names(teachers: tuple[Teacher, ...] | None) -> tuple[Teacher, ...] | None:
    labels = [teacher.label for teacher in teachers or ()]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"two teachers are called {repeated[0]!r}; give each a 'name'")
    if teachers == ():
        raise ValueError("names no teacher; leave it out for the sources of the search")
    return teachers


Teachers = Annotated[
    tuple[
        Annotated[
            Teacher, BeforeValidator(_teacher_from_text, json_schema_input_type=str | Teacher)
        ],
        ...,
    ]
    | None,
    AfterValidator(_with_unique_names),
]


class TeacherCacheSettings(Strict):
    """What is written down of the teachers' predictions.

    Attributes:
        kind: `topk`, the likeliest tokens with the mass of all others, or `sampled`, tokens drawn
            from the prediction, which is the smallest that is unbiased.
        k: Number of tokens at each position, or of draws; at most 65535.
        folder: Where it is kept, relative to the recipe, beside that of other teachers, texts and
            settings; the cache of evomerge when absent.
    """

    kind: Literal["topk", "sampled"] = "topk"
    k: Annotated[Positive, Field(le=65_535)] = 64
    folder: Text | None = None


class DistillationLoss(Strict):
    """What the student's mistakes are measured by.

    Attributes:
        kind: The distance from a teacher's prediction. `standardised_kl` is the forward KL of
            logits with mean 0 and deviation 1: how sure to be is left to the cross entropy.
        distillation: Its weight.
        cross_entropy: The weight of the cross entropy of the texts themselves.
        tail: Of `top_k_kl`: what becomes of the tokens that the cache has not: `ghost`, one
            bucket for all; `renormalised`, the kept ones sum to one; `zero`, they are left out;
            `text`, the kept ones sum to one where the text's token is among them, elsewhere it is
            learned itself. When absent `text` for a teacher with another tokenizer, of whose
            predictions much can be lost, else `ghost`.
        temperature: Predictions are compared at this temperature; when absent 1, for `alm` 100
            and for `standardised_kl` 2, as their authors do.
        beta: Of `jsd`: 0 is the forward and 1 the reverse divergence; of `span_hybrid`, between
            the two.
        top: Of `standardised_uld`: number of tokens compared.
        standardise: Of `standardised_uld`: over the whole vocabulary, or over the tokens compared.
    """

    kind: LossName = "top_k_kl"
    distillation: Weight = 0.9
    cross_entropy: Weight = 0.1
    tail: TailName | None = None
    temperature: Rate | None = None
    beta: Annotated[Number, Field(ge=0, le=1)] = 0.5
    top: Positive = 10
    standardise: Literal["vocabulary", "kept"] = "vocabulary"

    def tail_of(self, *, aligned: bool) -> TailName:
        """What becomes of the tokens that the cache of a teacher has not.

        Args:
            aligned: Whether the teacher has another tokenizer than the student.
        """
        return self.tail or ("text" if aligned else "ghost")

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if self.distillation + self.cross_entropy == 0:
            raise ValueError("both weights are 0, so that nothing is learned")
        if self.kind == "standardised_uld" and self.standardise == "kept" and self.top < 3:
            raise ValueError("top: two standardised numbers are always alike; give 3 or more")
        if self.kind == "standardised_kl" and self.standardise == "kept":
            raise ValueError(
                "standardise: kept with standardised_kl, which compares the whole vocabulary; "
                "leave it out, or take standardised_uld"
            )
        if self.kind == "standardised_kl" and self.cross_entropy == 0:
            raise ValueError(
                "cross_entropy: 0 with standardised_kl, which does not teach how sure to be; give "
                "it a weight, or take kl"
            )
        if self.kind == "span_hybrid" and self.beta in {0, 1}:
            raise ValueError(f"beta: {self.beta:g} with span_hybrid; allowed: between 0 and 1")
        return self

    @model_validator(mode="after")
    def _tail_is_left_out(self) -> Self:
        if self.tail is not None and self.kind != "top_k_kl":
            raise ValueError(
                f"tail: {self.tail} changes nothing with kind: {self.kind}; write tail: null, or "
                "take top_k_kl"
            )
        return self

    @model_validator(mode="after")
    def _temperature_can_be_changed(self) -> Self:
        able = {*LIVE, "alm"} | ({"top_k_kl"} if self.tail == "renormalised" else set())
        if self.temperature not in {None, 1} and self.kind not in able:
            raise ValueError(
                f"temperature: {self.temperature:g} with {self.kind}: what a cache has left out "
                "is not known at another temperature; allowed: 1, or alm, top_k_kl with tail: "
                "renormalised, and kl, reverse_kl, jsd or standardised_kl with cache: null"
            )
        return self


class Alignment(Strict):
    """How teachers with another tokenizer are read.

    Attributes:
        kind: `prefixes`, the teacher's tokens split into the student's; `spans` of equal bytes;
            `edit_distance` of tokens as FuseLLM, `statistics` of how tokens meet as FuseChat,
            `exact` tokens only, or `position`, by number. When absent `prefixes`, or `spans` for
            losses that compare predictions of any vocabularies.
        coverage: Least share of the texts' bytes that must find a partner.
    """

    kind: AlignmentKind | None = None
    coverage: Share = 0.2
