"""Tasks that run the code that models generate: accepted by a flag, scored in a sandbox."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import EvaluationError, TaskError
from evomerge.evaluation.generated_code.sandbox import Limits, sandboxed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ACCEPTED = "HF_ALLOW_CODE_EVAL"
"""The metrics of `evaluate` that run code look for this variable, when they are loaded as well."""
START_S, ITEM_S = 30, 5
"""Seconds that scoring may take, and seconds more for each answer."""


def refuse_generated_code(task: str, *, allowed: bool) -> None:
    """Refuse a task that runs generated code, unless that is accepted and there is a sandbox.

    Raises:
        TaskError: It is not, or there is none.
    """
    if not allowed:
        raise TaskError(
            f"task {task}: runs the code that models generate (unsafe_code); read SECURITY.md, "
            "then set evaluation.allow_generated_code=true to accept it"
        )
    if reason := _no_sandbox():
        raise TaskError(
            f"task {task}: runs the code that models generate, and this system has no sandbox for "
            f"it ({reason}); allow user namespaces, or leave the task out"
        )


@functools.cache
def _no_sandbox() -> str | None:
    try:
        sandboxed(lambda: None, Limits(seconds=START_S))
    except (OSError, EvaluationError) as error:
        return str(error)
    return None


@contextlib.contextmanager
def accepted_by_metrics(*, allowed: bool) -> Iterator[None]:
    """Tell metrics that are loaded meanwhile that generated code may be run."""
    before = os.environ.get(ACCEPTED)
    if allowed:
        os.environ[ACCEPTED] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ACCEPTED, None)
        else:
            os.environ[ACCEPTED] = before


def score_in_sandbox(
    task: str, score: Callable[[], tuple[float, Sequence[float]]], answers: int, items: int
) -> tuple[float, list[float]]:
    """Score a task where the code that it runs can do no harm.

    Args:
        task: Its name.
        score: Gives the score of the task, and of each item.
        answers: Number of answers that it scores.
        items: Number of items that they are of.

    Raises:
        EvaluationError: It failed, took too long, or gave something else.
    """
    folders = _folders_of_metrics()

    def scored() -> tuple[float, Sequence[float]]:
        os.environ[ACCEPTED] = "1"
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return score()

    try:
        said = sandboxed(scored, Limits(seconds=START_S + ITEM_S * answers))
    except (OSError, EvaluationError) as error:
        raise EvaluationError(f"task {task}: {error}") from None
    # The result of a process that ran generated code may be anything.
    try:
        total, scores = said
        figures = float(total), [float(item) for item in scores]
    except (TypeError, ValueError, OverflowError):
        figures = 0.0, []
    if len(figures[1]) != items:
        raise EvaluationError(
            f"task {task}: the process of generated code did not give the scores of {items} items"
        )
    return figures


def _folders_of_metrics() -> list[Path]:
    """Where metrics of `evaluate` that were loaded write: the sandbox has none of them yet."""
    if "evaluate" not in sys.modules:
        return []
    cache = Path(sys.modules["evaluate"].config.HF_METRICS_CACHE)
    return [Path(path) for path, _, _ in os.walk(cache)]
