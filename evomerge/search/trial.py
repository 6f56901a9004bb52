"""A trial of an optimiser from another package, before a search of hours relies on it.

A few generations on a sphere show what another version of the package may have broken; that an
optimiser is good at merging is not what is tried.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATIONS, GENERATION = 5, 8

OPTIMUM = 0.2
"""Far from the middle of the cube, so that even a slow optimiser gets nearer in a moment."""

ROUNDING = 1e-9
"""How far outside the cube a coordinate may lie."""

Losses = list[list[float]]


def try_out(name: str, package: str, build: Callable[[], Any], dimension: int) -> None:
    """Let an optimiser minimise the distance from a point, twice.

    Args:
        name: What the optimiser is called.
        package: The package it is from.
        build: Builds it, the same each time: `ask()` gives something whose `value` is a point of
            the unit cube, and `tell` takes that and a loss.
        dimension: Number of coordinates.

    Raises:
        VersionError: It fails, leaves the cube, does not repeat itself or finds nothing better.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, second = (_minimise(build(), dimension) for _ in range(2))
        problem = _problem_with(first, second)
    except _Unusable as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 (whatever another version of a package may raise)
        problem = " ".join(f"raises {type(error).__name__}: {error}".split())
    if problem:
        raise VersionError(
            f"{package} {version(package)}: its {name} {problem} when it is tried out; install "
            f"the versions of constraints.txt (numpy {np.__version__} is here), or choose another "
            "search.strategy, such as SHADE"
        )


class _Unusable(Exception):  # noqa: N818 (it never leaves this module)
    """A point that no search can use."""


def _minimise(optimizer: Any, dimension: int) -> Losses:
    """The losses of all points, by generation."""
    losses: Losses = []
    for _ in range(GENERATIONS):
        asked = [optimizer.ask() for _ in range(GENERATION)]
        losses.append([_loss(candidate.value, dimension) for candidate in asked])
        for candidate, loss in zip(asked, losses[-1], strict=True):
            optimizer.tell(candidate, loss)
    return losses


def _loss(value: Any, dimension: int) -> float:
    point = np.asarray(value, dtype=float)
    if point.shape != (dimension,):
        raise _Unusable(f"proposes points of shape {point.shape} instead of ({dimension},)")
    if not np.isfinite(point).all():
        raise _Unusable("proposes NaN or infinity")
    if (np.abs(point - 0.5) > 0.5 + ROUNDING).any():
        raise _Unusable(f"proposes {point[np.abs(point - 0.5).argmax()]:g}, outside [0, 1]")
    return float(((point - OPTIMUM) ** 2).sum())


def _problem_with(first: Losses, second: Losses) -> str | None:
    if first != second:
        return "proposes other points with the same seed"
    if min(map(min, first[1:])) >= min(first[0]):
        return f"finds nothing better in {GENERATIONS} generations"
    return None
