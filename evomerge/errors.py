"""Every exception that evomerge raises on purpose.

EvomergeError            anything below; the command line prints it as one line
├── RecipeError          a recipe, an override or an option is wrong
├── ModelError           a model folder, adapter or Hub id cannot be used
├── OutputError          the place to write to cannot be used
├── CompatibilityError   models that are fine by themselves do not fit together
├── TaskError            an lm-eval task or metric cannot be used
├── MergeError           merging one candidate failed; the search goes on
├── EvaluationError      scoring one candidate failed; the search goes on
├── RunError             a run folder cannot be used
│   └── RunInUseError    another process is writing to it
├── DiskFullError        no space is left
├── VersionError         an extra or a version is missing
└── NoCandidateError     a search ended without a single valid candidate
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EvomergeError(Exception):
    """Base of every exception raised on purpose.

    The message is one line for the user: what, where, what was found, what is allowed and what
    to do. `exit_code` is what the command line exits with.
    """

    exit_code = 1


class RecipeError(EvomergeError):
    """A recipe, an override or an option is wrong."""

    exit_code = 2


class ModelError(EvomergeError):
    """A model folder, an adapter or a Hub id cannot be used."""


class OutputError(EvomergeError):
    """The file or folder to write cannot be made, or is there already."""

    exit_code = 2


class CompatibilityError(EvomergeError):
    """Models that are fine by themselves do not fit together."""

    exit_code = 2


class TaskError(EvomergeError):
    """An lm-eval task, or a metric of one, cannot be used."""

    exit_code = 2


class MergeError(EvomergeError):
    """Merging one candidate failed."""


class EvaluationError(EvomergeError):
    """Scoring one candidate failed."""


class RunError(EvomergeError):
    """A run folder cannot be used."""


class RunInUseError(RunError):
    """Another process is writing to the run folder."""

    exit_code = 4


class DiskFullError(EvomergeError):
    """No space is left; what a run stored is safe, and it can be continued."""

    exit_code = 75


class NoCandidateError(EvomergeError):
    """A search ended without a single valid candidate."""

    exit_code = 3


class VersionError(EvomergeError):
    """A package or a version that is needed is missing."""

    exit_code = 5


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like another one, whatever their case."""
    words = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return words[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to put behind an unknown word: a question, or nothing."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""
