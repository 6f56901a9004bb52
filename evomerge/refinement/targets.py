"""What a student is told at each place: from teachers and settings to targets and a loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evomerge.errors import RecipeError
from evomerge.live_model import choose_device, choose_dtype, load_checkpoint
from evomerge.refinement.build import build
from evomerge.refinement.cache_key import cache_key
from evomerge.refinement.fusion import fuse
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.rows import Weighted
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.passes import as_predictions
from evomerge.refinement.teacher import Target
from evomerge.refinement.teacher_weights import of_domain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import DistillationLoss, Fusion, Teacher
    from evomerge.refinement import sequences
    from evomerge.refinement.cache import TeacherCache
    from evomerge.refinement.distil import Distillation
    from evomerge.refinement.losses.rows import RowLoss
    from evomerge.refinement.passes import Targets
    from evomerge.refinement.predictions import TopK
    from evomerge.refinement.student import MakeLoss


class Tell(Protocol):
    """Told how far a piece of work is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what is done, how much of it, and of how much."""


def targets_of(
    work: Distillation,
    library: SourceLibrary,
    read: Sequence[sequences.Sequence],
    vocabulary: int,
    tell: Tell,
) -> Targets | None:
    """What the teachers predict of the sequences; None without teachers.

    Args:
        work: The student, its teachers and settings.
        library: Opens models.
        read: The sequences, as the student reads them.
        vocabulary: The size of the student's tokenizer.
        tell: Told how much of a teacher's cache is built.

    Raises:
        RecipeError: A sequence has no teacher.
        EvomergeError: A cache cannot be built or read.
    """
    # Layers are fitted to those of sources, whatever teachers predict.
    if not work.teachers or work.settings.train.what == "layerwise":
        return None
    rule = fusion_of(work.settings.fuse, work.teachers, read)
    if rule == "by_domain":
        of = {each.index: teacher_of(work.teachers, each.domain) for each in read}
        asked = [[e for e in read if of[e.index] == n] for n in range(len(work.teachers))]
    else:
        asked = [list(read)] * len(work.teachers)
    caches = [
        _cache(work, library, teacher, own, vocabulary, tell) if own else None
        for teacher, own in zip(work.teachers, asked, strict=True)
    ]
    if rule == "by_domain":
        return lambda index: _rows(caches[of[index]], index)
    per_token = work.settings.fuse_by == "token"
    return lambda index: fuse([_rows(cache, index) for cache in caches], rule, per_token=per_token)


def fusion_of(
    wanted: Fusion | None, teachers: Sequence[Teacher], read: Sequence[sequences.Sequence]
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


def teacher_of(teachers: Sequence[Teacher], domain: str | None) -> int:
    """The number of the teacher of a domain, the first if several have it.

    Raises:
        RecipeError: None has it.
    """
    pairs = [(each, number) for number, t in enumerate(teachers) for each in domains_of(t)]
    return pairs[of_domain([each for each, _ in pairs], domain)][1]


def _rows(cache: TeacherCache | None, index: int) -> TopK:
    if cache is None:
        raise RuntimeError(f"sequence {index} was not asked")
    return cache.rows(index)


def _cache(
    work: Distillation,
    library: SourceLibrary,
    teacher: Teacher,
    read: Sequence[sequences.Sequence],
    vocabulary: int,
    tell: Tell,
) -> TeacherCache:
    settings = work.settings.cache
    if settings is None:
        raise RecipeError("refine.cache: null; teachers beside the student are not built yet")
    checkpoint, device = library.model(teacher.model), choose_device(work.device)
    dtype = choose_dtype(work.dtype, device)
    target = Target(vocabulary=vocabulary, kind=settings.kind, k=settings.k)
    key = cache_key(checkpoint, read, target, precision=str(dtype).removeprefix("torch."))
    folder = Path(settings.folder) / teacher.label if settings.folder else key.default_folder()
    return build(
        folder,
        key,
        read,
        lambda: load_checkpoint(checkpoint, dtype, device)[0],
        progress=lambda done, total: tell(f"what {teacher.label} predicts", done, total),
    )


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
