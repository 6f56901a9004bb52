"""What a student is told of each sequence, by all its teachers together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import RecipeError
from evomerge.refinement.fusion import fuse
from evomerge.refinement.teacher_weights import of_domain
from evomerge.refinement.told import in_full
from evomerge.refinement.voices import Asking

if TYPE_CHECKING:
    from collections import abc
    from collections.abc import Mapping

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import Fusion, Teacher
    from evomerge.refinement.distil import Distillation
    from evomerge.refinement.pass_loss import Tongue
    from evomerge.refinement.passes import Targets
    from evomerge.refinement.sequences import Sequence
    from evomerge.refinement.teacher_weights import Rule
    from evomerge.refinement.voices import Reading, Tell, Voice


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """What teachers tell.

    Attributes:
        targets: What they tell of a sequence.
        tongue: The vocabulary that they tell it in.
        notes: A sentence on how each teacher is understood, by its name.
    """

    targets: Targets
    tongue: Tongue
    notes: Mapping[str, str]


def targets_of(
    work: Distillation,
    library: SourceLibrary,
    reading: Reading,
    tell: Tell,
    student: tuple[Any, Mapping[str, Tensor]],
) -> Taught | None:
    """What the teachers tell of the sequences; None if there are none, or none has a cache.

    Args:
        work: The student, its teachers and settings.
        library: Opens models.
        reading: What the student reads.
        tell: Told how much of a teacher's cache is built.
        student: The merge as a model of transformers, before it is trained, and its weights.

    Raises:
        RecipeError: A sequence has no teacher, a chat is to be aligned, or teachers cannot become
            one.
        CompatibilityError: A teacher's tokenizer has too little in common with the student's.
        EvomergeError: A cache cannot be built or read.
    """
    # Layers are fitted to those of sources, whatever teachers predict.
    if not work.teachers or work.settings.cache is None or work.settings.train.what == "layerwise":
        return None
    asking = Asking(work, library, reading, tell)
    rule = fusion_of(work.settings.fuse, work.teachers, reading.sequences)
    numbers = [each.index for each in reading.sequences]
    asked = [numbers] * len(work.teachers)
    of: dict[int, int] = {}
    if rule == "by_domain":
        of = {each.index: teacher_of(work.teachers, each.domain) for each in reading.sequences}
        asked = [[each for each in numbers if of[each] == n] for n in range(len(work.teachers))]
    pairs = zip(work.teachers, asked, strict=True)
    voices = {
        number: asking.voice(teacher, frozenset(own))
        for number, (teacher, own) in enumerate(pairs)
        if own
    }
    notes = {work.teachers[number].label: each.note for number, each in voices.items()}
    if work.settings.with_student:
        voices[len(voices)] = asking.student_itself(*student)
    tongue = _one_tongue(work, list(voices.values()))
    if rule == "by_domain":
        return Taught(
            targets=lambda index: voices[of[index]].told(index), tongue=tongue, notes=notes
        )
    blend = _blending(work, rule, list(voices.values()))
    return Taught(targets=blend, tongue=tongue, notes=notes)


def fusion_of(
    wanted: Fusion | None, teachers: abc.Sequence[Teacher], read: abc.Sequence[Sequence]
) -> Fusion:
    """How teachers are fused: as is wanted, or by domain if every sequence has one of theirs."""
    if len(teachers) == 1:
        return "min_ce"
    if wanted is not None:
        return wanted
    known = {domain for teacher in teachers for domain in domains_of(teacher)}
    return "by_domain" if all(each.domain in known for each in read) else "min_ce"


def domains_of(teacher: Teacher) -> tuple[str, ...]:
    """The domains of the texts that a teacher teaches."""
    return teacher.domains or (teacher.label,)


def teacher_of(teachers: abc.Sequence[Teacher], domain: str | None) -> int:
    """The number of the teacher of a domain, the first if several have it.

    Raises:
        RecipeError: None has it.
    """
    pairs = [(each, number) for number, t in enumerate(teachers) for each in domains_of(t)]
    return pairs[of_domain([each for each, _ in pairs], domain)][1]


def _one_tongue(work: Distillation, voices: abc.Sequence[Voice]) -> Tongue:
    if work.settings.loss.kind == "span_hybrid":
        first = voices[0].tongue
        for voice in voices[1:]:
            if not torch.equal(voice.tongue.to_student, first.to_student):
                raise RecipeError(
                    "loss.kind: span_hybrid of teachers with several tokenizers; take mode: "
                    "pairwise, or alm"
                )
    return voices[0].tongue


def _blending(work: Distillation, rule: Rule, voices: abc.Sequence[Voice]) -> Targets:
    """Several teachers as one."""
    if len(voices) == 1:
        return voices[0].told
    per_token = work.settings.fuse_by == "token"
    if rule == "min_ce" and not per_token:
        return lambda index: min(
            (voice.told(index) for voice in voices), key=lambda told: float(told.rows.nll.mean())
        )
    if any(voice.aligned for voice in voices):
        raise RecipeError(
            f"fuse: {rule} by {work.settings.fuse_by} with a teacher that has another tokenizer; "
            "take min_ce or by_domain by sequence, or mode: pairwise"
        )
    return lambda index: in_full(
        fuse([voice.told(index).rows for voice in voices], rule, per_token=per_token)
    )
