"""One teacher, and what it predicts of the texts that the student reads, from a cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.errors import CompatibilityError, EvaluationError, RecipeError
from evomerge.live_model import choose_device, choose_dtype, load_checkpoint
from evomerge.recipe.distillation import IN_STUDENTS_TOKENS
from evomerge.refinement.alignment.pairs import pair
from evomerge.refinement.alignment.placed import Reader, open_reader, place
from evomerge.refinement.alignment.rows import in_students_tokens
from evomerge.refinement.alignment.same import relate
from evomerge.refinement.alignment.vocabulary import read_vocabulary
from evomerge.refinement.cache.key import CacheKey, cache_key
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.predictions.targets import TargetVocabulary, row_by_row
from evomerge.refinement.teachers.aligned import (
    BY_GROUPS,
    IN_OWN_TOKENS,
    AlignedTeacher,
    AlignmentMode,
)
from evomerge.refinement.teachers.build import build
from evomerge.refinement.teachers.prefixes import PrefixTeacher
from evomerge.refinement.texts.sequences import make_sequences

if TYPE_CHECKING:
    from collections import abc
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.distillation import Teacher, TeacherCacheSettings
    from evomerge.refinement.alignment.pairs import Pair
    from evomerge.refinement.alignment.same import Relation
    from evomerge.refinement.cache.teacher_cache import TeacherCache
    from evomerge.refinement.distillation import Distillation, Report
    from evomerge.refinement.predictions.targets import Targets, TargetsOf
    from evomerge.refinement.predictions.top_k import TopK
    from evomerge.refinement.texts.examples import Example
    from evomerge.refinement.texts.sequences import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The texts that a student reads.

    Attributes:
        examples: The texts.
        sequences: As the student reads them.
        tokenizer: The student's.
    """

    examples: abc.Sequence[Example]
    sequences: abc.Sequence[Sequence]
    tokenizer: Any

    def of(self, numbers: abc.Container[int]) -> list[Sequence]:
        """The sequences of some examples."""
        return [each for each in self.sequences if each.index in numbers]


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedTeacher:
    """One teacher.

    Attributes:
        targets_of: Its targets.
        vocabulary: The vocabulary of its targets.
        note: A sentence on how it is aligned.
    """

    targets_of: TargetsOf
    vocabulary: TargetVocabulary
    note: str


class TeacherOpener:
    """Has teachers predict the texts, or finds what they predicted before.

    Args:
        work: The student and settings.
        library: Opens models.
        corpus: What the student reads.
        report: Told how much of a teacher's cache is built.
    """

    def __init__(
        self, work: Distillation, library: SourceLibrary, corpus: Corpus, report: Report
    ) -> None:
        self._work, self._library, self._corpus, self._report = work, library, corpus, report
        self._base = library.model(work.student.base)
        self._device = choose_device(work.device)
        self._dtype = choose_dtype(work.dtype, self._device)

    def open(self, teacher: Teacher, asked: frozenset[int]) -> CachedTeacher:
        """A teacher, asked of some examples."""
        checkpoint = self._library.model(teacher.model)
        relation = relate(self._base.folder, checkpoint.folder)
        read = self._corpus.of(asked)
        # A token that only one of the two has cannot be read by both.
        if relation.kind == "different" or _has(read, relation.unshared):
            return self._aligned(teacher, checkpoint, relation, asked)
        own = theirs = self._own_vocabulary()
        if relation.kind == "superset":
            theirs = TargetVocabulary(size=relation.size, to_student=relation.to_student())
        key = self._key(checkpoint, read, theirs.size)
        cache = self._cache(teacher.label, key, read, lambda: self._load(checkpoint))
        wanted = theirs if self._work.settings.loss.kind in IN_OWN_TOKENS else own
        return CachedTeacher(
            targets_of=lambda index: row_by_row(_in_tokens_of(wanted, theirs, cache.rows(index))),
            vocabulary=replace(wanted, aligned=wanted is not own),
            note=relation.explanation,
        )

    def open_student(self, model: Any, weights: Mapping[str, Tensor]) -> CachedTeacher:
        """The student as it is now, as one of the teachers."""
        read, vocabulary = list(self._corpus.sequences), len(self._corpus.tokenizer)
        key = replace(
            self._key(self._base, read, vocabulary), teacher=_digest(weights), reference=""
        )
        cache = self._cache("the student", key, read, lambda: model)
        return CachedTeacher(
            targets_of=lambda index: row_by_row(cache.rows(index)),
            vocabulary=self._own_vocabulary(),
            note="",
        )

    def _aligned(
        self, teacher: Teacher, checkpoint: Checkpoint, relation: Relation, asked: frozenset[int]
    ) -> CachedTeacher:
        settings = self._work.settings
        examples = {index: self._corpus.examples[index] for index in sorted(asked)}
        folder, tokenizer = self._base.folder, self._corpus.tokenizer
        ours = Reader(tokenizer=tokenizer, vocabulary=read_vocabulary(folder))
        theirs = open_reader(checkpoint.folder)
        read = _read_by(teacher.label, theirs.tokenizer, examples, settings.data.max_tokens)
        pairs = {}
        for each in self._corpus.of(asked):
            content = examples[each.index].content
            other = place(theirs, content, read.get(each.index))
            pairs[each.index] = pair(place(ours, content, each), other)
        mode = AlignmentMode(loss=settings.loss.kind, alignment=settings.alignment_kind)
        aligned: AlignedTeacher | PrefixTeacher
        if mode.alignment == "prefixes":
            aligned = PrefixTeacher(pairs, (ours, theirs))
        else:
            aligned = AlignedTeacher(pairs, (ours, theirs), mode)
        if settings.loss.kind not in BY_GROUPS:
            aligned.coverage.check(settings.alignment.coverage, teacher.label)
        vocabulary = TargetVocabulary(size=len(theirs.tokenizer), to_student=aligned.to_student)
        key = self._key(checkpoint, list(read.values()), vocabulary.size)
        cache = self._cache(
            teacher.label, key, list(read.values()), lambda: self._load(checkpoint)
        )
        # A text may be too long for the teacher alone.
        nothing = cache.rows(min(read)).each(lambda own: own[:0])
        in_own_tokens = settings.loss.kind in IN_OWN_TOKENS

        def targets_of(index: int) -> Targets:
            return aligned.targets(index, cache.rows(index) if index in read else nothing)

        coverage = aligned.coverage
        if settings.loss.kind in IN_STUDENTS_TOKENS:
            # Only the rows tell where too much is lost with the tokens that were not kept.
            alone = sum(self._alone(pair, targets_of(index)) for index, pair in pairs.items())
            if mode.alignment not in {"prefixes", "spans"}:
                alone += coverage.fallbacks  # rows that are certain of the text's own token
            coverage = replace(coverage, fallbacks=alone)
        return CachedTeacher(
            targets_of=targets_of,
            vocabulary=replace(
                vocabulary if in_own_tokens else self._own_vocabulary(), aligned=True
            ),
            note=f"{relation.explanation}: {coverage.sentence(aligned.to_student)}",
        )

    def _alone(self, pair: Pair, targets: Targets) -> int:
        """How many tokens are learned from the text alone."""
        loss, labels = self._work.settings.loss, torch.tensor(pair.student.supervised)
        taught = targets.covered
        if loss.kind == "top_k_kl" and loss.tail_of(aligned=True) == "text":
            taught = taught & targets.rows.has(labels)
        return int((~taught).sum())

    def _key(
        self, checkpoint: Checkpoint, read: abc.Sequence[Sequence], vocabulary: int
    ) -> CacheKey:
        settings = self._kept
        kept = Kept(vocabulary=vocabulary, kind=settings.kind, k=settings.k)
        precision = str(self._dtype).removeprefix("torch.")
        return cache_key(checkpoint, read, kept, precision=precision)

    @property
    def _kept(self) -> TeacherCacheSettings:
        kept = self._work.settings.cache
        if kept is None:
            raise RuntimeError("nothing is to be kept of teachers")
        return kept

    def _cache(
        self, name: str, key: CacheKey, read: abc.Sequence[Sequence], load: Callable[[], Any]
    ) -> TeacherCache:
        try:
            return build(
                key.folder(name, self._kept.folder),
                key,
                read,
                load,
                progress=lambda done, total: self._report(f"what {name} predicts", done, total),
                waiting=lambda: self._report(f"another process, which asks {name}", 0, 1),
            )
        except (CompatibilityError, EvaluationError) as error:
            raise type(error)(f"{name}: {error}") from error

    def _own_vocabulary(self) -> TargetVocabulary:
        size = len(self._corpus.tokenizer)
        return TargetVocabulary(size=size, to_student=torch.arange(size))

    def _load(self, checkpoint: Checkpoint) -> Any:
        return load_checkpoint(checkpoint, self._dtype, self._device)[0]


def _read_by(
    name: str, tokenizer: Any, examples: Mapping[int, Example], max_tokens: int
) -> dict[int, Sequence]:
    """Examples as a teacher reads them, those with something to predict, by their numbers."""
    try:
        made = make_sequences([*examples.values()], tokenizer, max_tokens)
    except RecipeError as error:
        raise RecipeError(f"{name}: with its tokenizer {error}") from error
    numbers = [*examples]
    return {
        numbers[each.index]: replace(each, index=numbers[each.index]) for each in made.sequences
    }


def _in_tokens_of(wanted: TargetVocabulary, theirs: TargetVocabulary, rows: TopK) -> TopK:
    """A teacher's rows as they are, or in the student's tokens, whichever are wanted."""
    return rows if wanted is theirs else in_students_tokens(rows, theirs.to_student, wanted.size)


def _has(read: abc.Sequence[Sequence], tokens: frozenset[int]) -> bool:
    return bool(tokens) and any(not tokens.isdisjoint(each.ids.tolist()) for each in read)


def _digest(weights: Mapping[str, Tensor]) -> str:
    found = blake3(max_threads=blake3.AUTO)
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
