"""The record that compatibility checks report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One reason why models do not fit together, or may not.

    Attributes:
        severity: `error` if a merge would be wrong, `warning` if the user should know, `note` if
            it is only to be said.
        where: The model it is about, as the user named it.
        message: What differs, with both values.
        remedy: What to do about it.
    """

    severity: Literal["error", "warning", "note"]
    where: str
    message: str
    remedy: str


def shorten(names: list[str]) -> str:
    """Return the first three of some names and how many more there are."""
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
