"""Whether calibration texts contain held-out items, which must choose nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evomerge.sensitivity.calibration import Prompted

LEAST = 20
"""Characters that an item must have to be recognised inside a longer text."""


def refuse_held_out(
    held_out: Iterable[str], texts: Mapping[str, Sequence[str | Prompted]]
) -> None:
    """Check that no held-out item is measured on.

    Args:
        held_out: The items in words.
        texts: Calibration texts by their file.

    Raises:
        RecipeError: A file contains some; the message says how many.
    """
    wanted = {_plain(item) for item in held_out}
    for file, of_file in texts.items():
        known = [_plain(text if isinstance(text, str) else "".join(text)) for text in of_file]
        whole = set(known)
        found = sum(
            item in whole or (len(item) >= LEAST and any(item in text for text in known))
            for item in wanted
        )
        if found:
            raise RecipeError(
                f"calibration.texts: {file} contains {found} held-out item{'s'[: found > 1]}, "
                "which would help to choose what they judge; give other texts"
            )


def _plain(text: str) -> str:
    return " ".join(text.split())
