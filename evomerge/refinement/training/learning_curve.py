"""What the losses of a training say: when it was best, whether it has settled, or has failed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evomerge.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence


def is_best(losses: Sequence[float]) -> bool:
    """Whether the last loss is less than all before it."""
    return losses.index(min(losses)) == len(losses) - 1


def has_settled(losses: Sequence[float], patience: int) -> bool:
    """Whether so many losses, the last ones, have brought no gain; never where there are none."""
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def check_finite(what: str, found: float, *, step: int, updates: int) -> None:
    """Refuse to go on with a loss or a gradient that says nothing.

    Args:
        what: What is checked.
        found: How large it is.
        step: The step that it was found at; 0 before the first.
        updates: How often the student was changed before.

    Raises:
        EvaluationError: It is NaN or infinite.
    """
    if math.isfinite(found):
        return
    if updates == 0:
        raise EvaluationError(
            f"the {what} is {found} before anything was learned; the student overflows on these "
            "texts, so refine another merge, or in float32"
        )
    raise EvaluationError(f"the {what} is {found} at step {step}; train with a lower train.rate")
