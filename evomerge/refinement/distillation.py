"""What is to be distilled into what: plain data, which can travel to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from evomerge.recipe.distillation import Teacher
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.refine import Refinement


class Report(Protocol):
    """Where a piece of work reports how far it is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what is done, how much of it, and of how much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """A student to be trained.

    Attributes:
        student: The merge that is trained; its paths are absolute.
        teachers: Whom it learns from; none, if it learns from the texts alone.
        settings: How it is trained; paths are absolute.
        folder: Where its checkpoints and the result are kept.
        device: Device, or `auto`.
        dtype: Precision of forward passes, or `auto`.
        threads: CPU threads.
    """

    student: MergeRecipe
    teachers: tuple[Teacher, ...]
    settings: Refinement
    folder: str
    device: str
    dtype: str
    threads: int
