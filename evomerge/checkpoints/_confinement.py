"""Files that a model folder names must lie in that folder.

A folder from a stranger could otherwise make evomerge read, and later publish, any file of the
user. Symlinks that leave the folder are refused, with one exception: the Hub cache, where
`models--org--name/snapshots/REVISION/*` link to `models--org--name/blobs/*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


def confined(folder: Path, name: str) -> Path:
    """Return the file called `name` in `folder`.

    Raises:
        ModelError: `name` is not a plain file name, or is a link that leads out of `folder`.
    """
    if not is_plain(name):
        raise ModelError(
            f"{folder}: {name!r} leaves the model folder; only plain file names are allowed."
        )
    file = folder / name
    try:
        target = file.resolve()
        allowed = [folder.resolve(), *_blobs(folder.resolve())]
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{file}: the link leads in a circle.") from error
    if target.parent not in allowed:
        raise ModelError(
            f"{file}: leaves the model folder: it is a link to {target}; put a copy there instead."
        )
    return file


def is_plain(name: str) -> bool:
    """Tell whether `name` is one printable file name, without any folder part."""
    return name.isprintable() and name not in {"", ".", ".."} and not set(name) & {"/", "\\"}


def _blobs(folder: Path) -> list[Path]:
    snapshots, repository = folder.parent, folder.parent.parent
    is_hub_cache = snapshots.name == "snapshots" and repository.name.startswith("models--")
    return [repository / "blobs"] if is_hub_cache else []
