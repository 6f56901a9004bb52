"""The teachers of a student together: what they predict of each sequence, as targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import RecipeError
from evomerge.refinement.predictions.targets import row_by_row
from evomerge.refinement.teachers.cached import TeacherOpener
from evomerge.refinement.teachers.fusion import fuse
from evomerge.refinement.teachers.weights import of_domain

if TYPE_CHECKING:
    from collections import abc
    from collections.abc import Mapping

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.distillation import Teacher
    from evomerge.recipe.refine import Fusion, Refinement
    from evomerge.refinement.distillation import Distillation, Report
    from evomerge.refinement.predictions.targets import TargetsOf
    from evomerge.refinement.teachers.cached import CachedTeacher, Corpus
    from evomerge.refinement.teachers.weights import Rule
    from evomerge.refinement.texts.examples import Example
    from evomerge.refinement.texts.sequences import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """Teachers whose predictions are in caches.

    Attributes:
        members: Those that a student is compared with: one that was made of all of them, or, with
            `sum`, each.
        notes: A sentence on how each teacher is aligned, by its name.
    """

    members: tuple[CachedTeacher, ...] = ()
    notes: Mapping[str, str]


def open_ensemble(
    work: Distillation,
    library: SourceLibrary,
    corpus: Corpus,
    report: Report,
    student: tuple[Any, Mapping[str, Tensor]],
) -> Ensemble:
    """Have the teachers predict the texts; nobody if there are none, or none has a cache.

    Args:
        work: The student, its teachers and settings.
        library: Opens models.
        corpus: What the student reads.
        report: Told how much of a teacher's cache is built.
        student: The merge as a model of transformers, before it is trained, and its weights.

    Raises:
        RecipeError: A sequence has no teacher, or teachers cannot become one.
        CompatibilityError: A teacher's tokenizer has too little in common with the student's.
        EvomergeError: A cache cannot be built or read.
    """
    if not work.teachers or work.settings.cache is None:
        return Ensemble(notes={})
    opener = TeacherOpener(work, library, corpus, report)
    rule = fusion_of(work.settings.fuse, work.teachers, corpus.sequences)
    numbers = [each.index for each in corpus.sequences]
    asked = [numbers] * len(work.teachers)
    of: dict[int, int] = {}
    if rule == "by_domain":
        asked = _by_domain(work.teachers, corpus.examples, numbers)
        of = {each: number for number, own in enumerate(asked) for each in own}
    pairs = zip(work.teachers, asked, strict=True)
    cached = {
        number: opener.open(teacher, frozenset(own))
        for number, (teacher, own) in enumerate(pairs)
        if own
    }
    notes = {work.teachers[number].label: each.note for number, each in cached.items()}
    if rule == "dynamic":
        raise RuntimeError("dynamic fusion has no cache")
    if rule == "sum":
        return Ensemble(members=tuple(cached.values()), notes=notes)
    if work.settings.with_student:
        cached[len(cached)] = opener.open_student(*student)
    members = list(cached.values())
    _check_one_vocabulary(work, members)
    if rule == "by_domain":
        targets_of: TargetsOf = lambda index: cached[of[index]].targets_of(index)  # noqa: E731
    else:
        targets_of = _fused(work, rule, members)
    aligned = any(each.vocabulary.aligned for each in members)
    vocabulary = replace(members[0].vocabulary, aligned=aligned)
    one = replace(members[0], targets_of=targets_of, vocabulary=vocabulary)
    return Ensemble(members=(one,), notes=notes)


def asked_of(
    settings: Refinement, teachers: abc.Sequence[Teacher], examples: abc.Sequence[Example]
) -> list[list[int]]:
    """The numbers of the examples that each teacher is asked of.

    Raises:
        RecipeError: An example has no teacher.
    """
    numbers, by_domain = range(len(examples)), settings.fuse in {None, "by_domain"}
    if settings.mode == "pairwise" and by_domain:
        own = [
            [number for number in numbers if examples[number].domain in domains_of(teacher)]
            for teacher in teachers
        ]
        return [each or list(numbers) for each in own]
    if fusion_of(settings.fuse, teachers, examples) != "by_domain":
        return [list(numbers)] * len(teachers)
    return _by_domain(teachers, examples, numbers)


def fusion_of(
    wanted: Fusion | None,
    teachers: abc.Sequence[Teacher],
    read: abc.Sequence[Sequence] | abc.Sequence[Example],
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


def _by_domain(
    teachers: abc.Sequence[Teacher],
    examples: abc.Sequence[Example],
    numbers: abc.Iterable[int],
) -> list[list[int]]:
    """The numbers of the examples of each teacher, where an example has one teacher."""
    found: list[list[int]] = [[] for _ in teachers]
    for number in numbers:
        found[_teacher_of(teachers, examples[number])].append(number)
    return found


def _teacher_of(teachers: abc.Sequence[Teacher], example: Example) -> int:
    try:
        return teacher_of(teachers, example.domain)
    except RecipeError as error:
        raise RecipeError(f"{example.where}: {error}") from error


def _check_one_vocabulary(work: Distillation, members: abc.Sequence[CachedTeacher]) -> None:
    if work.settings.loss.kind != "span_hybrid":
        return
    first = members[0].vocabulary
    if not all(torch.equal(each.vocabulary.to_student, first.to_student) for each in members):
        raise RecipeError(
            "loss.kind: span_hybrid of teachers with several tokenizers; take fuse: sum, "
            "mode: pairwise, or alm"
        )


def _fused(work: Distillation, rule: Rule, members: abc.Sequence[CachedTeacher]) -> TargetsOf:
    """Several teachers as one."""
    if len(members) == 1:
        return members[0].targets_of
    per_token = work.settings.fuse_by == "token"
    if rule == "min_ce" and not per_token:
        return lambda index: min(
            (each.targets_of(index) for each in members),
            key=lambda targets: float(targets.rows.nll.mean()),
        )
    if any(each.vocabulary.aligned for each in members):
        raise RecipeError(
            f"fuse: {rule} by {work.settings.fuse_by} with a teacher that has another tokenizer; "
            "take sum, or min_ce or by_domain by sequence, or mode: pairwise"
        )
    return lambda index: row_by_row(
        fuse([each.targets_of(index).rows for each in members], rule, per_token=per_token)
    )
