"""What a student is told at each place: from teachers and settings to targets and a loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evomerge.errors import RecipeError
from evomerge.live_model import choose_device, choose_dtype, load_checkpoint
from evomerge.refinement.build import build
from evomerge.refinement.cache_key import cache_key
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.rows import Weighted
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.passes import as_predictions
from evomerge.refinement.teacher import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.refine import DistillationLoss, Teacher
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
    if not work.teachers:
        return None
    chosen = by_domain(work.teachers, read)
    caches = {}
    for number, teacher in enumerate(work.teachers):
        own = [each for each in read if chosen[each.index] == number]
        if own:
            caches[number] = _cache(work, library, teacher, own, vocabulary, tell)

    def targets(index: int) -> TopK:
        return caches[chosen[index]].rows(index)

    return targets


def by_domain(teachers: Sequence[Teacher], read: Sequence[sequences.Sequence]) -> dict[int, int]:
    """The number of the teacher of each sequence, by the number of its example.

    Raises:
        RecipeError: A sequence has a domain that no teacher has.
    """
    of = {
        domain: number
        for number, teacher in enumerate(teachers)
        for domain in teacher.domains or (teacher.label,)
    }
    if len(teachers) == 1:
        return {each.index: 0 for each in read}
    unknown = sorted({str(each.domain) for each in read if each.domain not in of})
    if unknown:
        raise RecipeError(
            f"refine.data: no teacher has the domain {unknown[0]!r}; the domains of teachers are "
            f"{', '.join(sorted(of))}; give a teacher this domain, or another refine.fuse"
        )
    return {each.index: of[str(each.domain)] for each in read}


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
