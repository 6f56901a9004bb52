"""How the losses of a training went: a few points, a line of blocks, a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_ROWS = 12


class Point(NamedTuple):
    """The losses of a student when it was compared with before.

    Attributes:
        step: Optimiser steps that were done.
        training: Mean loss of the steps since the point before; None before the first step.
        validation: Loss on the texts that are set aside.
    """

    step: int
    training: float | None
    validation: float


def learning_curve(course: dict[str, Any] | None) -> list[Point]:
    """The points of a training.

    Args:
        course: What a training tells of itself; those of older versions, without texts set aside
            or of what is not trained step by step have no points.
    """
    if not course or "compared_at" not in course:
        return []
    losses, steps = course["losses"], course["compared_at"]
    return [
        Point(step, _mean(losses[before:step]), validation)
        for before, step, validation in zip(
            [0, *steps], steps, course["validation_losses"], strict=False
        )
    ]


def best(points: Sequence[Point]) -> Point:
    """The point whose weights were kept: the first with the least loss on texts set aside."""
    return min(points, key=lambda point: point.validation)


def sparkline(values: Sequence[float | None]) -> str:
    """One character for each value, the higher the greater; a space where there is none."""
    known = [value for value in values if value is not None]
    low, span = min(known), max(known) - min(known)
    top = len(BLOCKS) - 1
    return "".join(
        " " if value is None else BLOCKS[round((value - low) / span * top) if span else 0]
        for value in values
    )


def table(points: Sequence[Point]) -> list[tuple[str, str, str]]:
    """Steps, training and validation losses as text; of many points some, the best among them."""
    last, kept = len(points) - 1, points.index(best(points))
    shown = {round(row * last / (MOST_ROWS - 1)) for row in range(MOST_ROWS)} | {kept}
    return [
        (
            str(point.step),
            "" if point.training is None else f"{point.training:.4f}",
            f"{point.validation:.4f}",
        )
        for point in (points[number] for number in sorted(shown))
    ]


def _mean(losses: Sequence[float]) -> float | None:
    return sum(losses) / len(losses) if losses else None
