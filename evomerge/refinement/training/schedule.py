"""When a training takes an optimiser step, and when it is compared with before and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from evomerge.recipe.refine import Training
    from evomerge.refinement.training.passes import Passes


class Schedule(NamedTuple):
    """The course of a training, in passes and steps.

    Attributes:
        passes_per_step: Forward passes that an optimiser step adds up; the last may have fewer.
        steps: Optimiser steps.
        every: Steps from one comparison to the next.
    """

    passes_per_step: int
    steps: int
    every: int


def read_in(passes: Passes, settings: Training, steps: int) -> Passes:
    """What the first steps of a training have read."""
    return passes.first(steps * schedule_of(settings, len(passes)).passes_per_step)


def schedule_of(settings: Training, passes: int) -> Schedule:
    """The course of a training of so many passes."""
    together = settings.batch_tokens // settings.tokens_at_once
    steps = -(-passes // together)
    return Schedule(together, steps, max(1, steps // settings.checkpoints))
