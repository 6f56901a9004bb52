"""Whether texts contain items that judge what they help to make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evomerge.sensitivity.calibration import Prompted

LEAST = 20
"""Characters that an item must have to be recognised inside a longer text."""


def refuse_items(
    items: Iterable[str], texts: Mapping[str, Sequence[str | Prompted]], where: str, what: str
) -> None:
    """Check that models are not measured or trained on items that judge them.

    Args:
        items: The items in words.
        texts: Texts by their file.
        where: The setting that names the files.
        what: What the items are called.

    Raises:
        RecipeError: A file contains some; the message says how many.
    """
    wanted = {_plain(item) for item in items}
    for file, of_file in texts.items():
        known = {_plain(text if isinstance(text, str) else "".join(text)) for text in of_file}
        # No item goes over the end of a line.
        together = "\n".join(known)
        found = sum(item in known or (len(item) >= LEAST and item in together) for item in wanted)
        if found:
            raise RecipeError(
                f"{where}: {file} contains {found} {what} item{'s'[: found > 1]} of the "
                "evaluation, which would then judge what has seen them; give other texts"
            )


def _plain(text: str) -> str:
    return " ".join(text.split())
