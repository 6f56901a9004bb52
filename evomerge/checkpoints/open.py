"""From what a user writes to a checkpoint.

A reference is a local folder, a Hub id `org/name` or `org/name@revision`, or `BASE+ADAPTER` made
of two of these. What exists as a folder is local; nothing else is guessed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoints.adapted_model import AdaptedModel
from evomerge.checkpoints.hub import fetch
from evomerge.checkpoints.model_folder import ModelFolder
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from evomerge.checkpoints.protocol import Checkpoint

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]*", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def open_checkpoint(reference: str, *, root: Path) -> Checkpoint:
    """Open the model that `reference` names; download it first if it is on the Hub.

    Args:
        reference: A folder, a Hub id, or `BASE+ADAPTER`.
        root: Folder that relative paths start from.

    Raises:
        ModelError: There is no such model, or it cannot be used.
    """
    parts = _split(reference, root)
    base: Checkpoint = ModelFolder(
        parts[0].fetch(), reference=reference if len(parts) == 1 else parts[0].text
    )
    for adapter in parts[1:]:
        base = AdaptedModel(base, adapter.fetch(), reference=reference)
    return base


def resolve_reference(reference: str, *, root: Path) -> str:
    """Return `reference` with local folders made absolute; Hub ids stay as they are.

    Raises:
        ModelError: A part is neither a folder nor a Hub id.
    """
    return "+".join(part.resolved for part in _split(reference, root))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One folder or Hub repository.

    Attributes:
        text: What the user wrote.
        folder: Where it is, or would be, on this machine.
        is_local: Whether `folder` is there.
    """

    text: str
    folder: Path
    is_local: bool

    @property
    def is_usable(self) -> bool:
        return self.is_local or (self._hub_id() is not None and not self._is_file())

    @property
    def resolved(self) -> str:
        return str(self.folder) if self.is_local else self.text

    def fetch(self) -> Path:
        """Return the folder, downloaded if need be."""
        hub_id = self._hub_id()
        if self.is_local or hub_id is None:
            return self.folder
        return fetch(*hub_id, missing_folder=self.folder)

    def explain(self) -> str:
        """Say why the part is not usable."""
        if not self.text:
            return "a model is missing beside '+'; write BASE+ADAPTER"
        if self._is_file():
            return f"{self.folder} is a file; name the folder that it is in"
        if self.text.count("@") > 1:
            return f"{self.text!r} has more than one '@'; write org/name@revision"
        return f"no folder {self.folder}, and {self.text!r} is no Hub id like org/name[@revision]"

    def _is_file(self) -> bool:
        return os.path.isfile(self.folder)  # noqa: PTH113 - Path's raises if the name is too long

    def _hub_id(self) -> tuple[str, str | None] | None:
        repository, at, revision = self.text.partition("@")
        if not _HUB_ID.fullmatch(repository):
            return None
        if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
            return None
        return repository, revision or None


def _split(reference: str, root: Path) -> tuple[_Part, ...]:
    """Return the one or two parts of a reference, each usable."""
    if not reference.strip() or _CONTROL.search(reference):
        raise ModelError(f"{reference!r} names no model; it is empty or has control characters.")
    if _URL.match(reference):
        raise ModelError(
            f"{reference!r} is a URL; only folders and Hub ids (org/name) are opened."
        )
    whole = _part(reference, root)
    pluses = [i for i, character in enumerate(reference) if character == "+"]
    if whole.is_local or not pluses:
        return _usable(reference, (whole,))
    # A folder's name may contain '+' too, so every place is tried.
    pairs = [(_part(reference[:i], root), _part(reference[i + 1 :], root)) for i in pluses]
    usable = [pair for pair in pairs if all(part.is_usable for part in pair)]
    if len(usable) == 1:
        return usable[0]
    if len(pairs) == 1:
        return _usable(reference, pairs[0])
    count = "more than one way" if usable else "no way"
    raise ModelError(
        f"{reference!r}: there is {count} to read it as BASE+ADAPTER; only one '+' is allowed, "
        "and both sides must be a folder or a Hub id."
    )


def _part(text: str, root: Path) -> _Part:
    folder = Path(text)
    if text.startswith("~"):
        try:
            folder = folder.expanduser()
        except RuntimeError as error:
            raise ModelError(f"{text!r}: there is no such home folder.") from error
    folder = Path(root.absolute(), folder)
    if ".." in folder.parts:  # otherwise links stay: they are how the user named the model
        folder = folder.resolve()
    return _Part(text=text, folder=folder, is_local=bool(text) and _is_folder(folder))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error
    except OSError:  # a name that is too long for any disk
        return False


def _usable(reference: str, parts: tuple[_Part, ...]) -> tuple[_Part, ...]:
    for part in parts:
        if not part.is_usable:
            raise ModelError(f"{reference!r}: {part.explain()}.")
    return parts
