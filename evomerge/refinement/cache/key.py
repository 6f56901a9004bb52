"""What a teacher cache depends on, each part under a name, so that a message can say which."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.cache import as_file_name, cache_folder
from evomerge.checkpoints import tokenizer_digest
from evomerge.checkpoints.tokenizer import chat_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evomerge.checkpoints import Checkpoint
    from evomerge.refinement.predictions.kept import Kept
    from evomerge.refinement.texts.sequences import Sequence

SCHEMA = 2
"""The form of a cache on disk; to be raised with any change of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """All that a cache of predictions depends on; how sequences are packed is no part of it.

    Attributes:
        teacher: The identity of the teacher's checkpoint.
        tokenizer: A digest of the teacher's tokenizer; the student's made the sequences where the
            two split texts alike, and what it made is in `data`.
        template: A digest of its chat template.
        data: A digest of the sequences and the numbers of their examples.
        precision: Of the teacher's forward passes, e.g. `float32`.
        kept: What is kept of the predictions.
        reference: How the user named the teacher; does not count.
    """

    teacher: str
    tokenizer: str
    template: str
    data: str
    precision: str
    kept: Kept
    reference: str = field(default="", compare=False)

    def parts(self) -> dict[str, Any]:
        """The parts that count, by name."""
        parts = asdict(self)
        del parts["reference"]
        kept: dict[str, Any] = parts.pop("kept")
        return parts | kept

    def folder(self, label: str, parent: str | None = None) -> Path:
        """Where the cache is kept; caches of other keys, or of another form, lie beside it.

        Args:
            label: The teacher's name, by which users know its caches.
            parent: A folder that the user names; the cache of evomerge if there is none.
        """
        name = _digest({"schema": SCHEMA} | self.parts())
        if parent is None:
            return cache_folder("teachers") / name
        return Path(parent) / f"{as_file_name(label)}-{name[:12]}"

    def differences(self, found: Mapping[str, object]) -> list[str]:
        """Which parts another cache has different, in words."""
        return [
            f"{name} {_short(found.get(name))} instead of {_short(wanted)}"
            for name, wanted in self.parts().items()
            if found.get(name) != wanted
        ]


def cache_key(
    teacher: Checkpoint, sequences: Iterable[Sequence], kept: Kept, *, precision: str
) -> CacheKey:
    """The key of what a teacher predicts of sequences.

    Args:
        teacher: The teacher.
        sequences: What it is asked.
        kept: What is kept of its predictions.
        precision: Of its forward passes, e.g. `float32`.

    Raises:
        ModelError: A file of the tokenizer cannot be read.
    """
    return CacheKey(
        teacher=teacher.identity(),
        tokenizer=tokenizer_digest(teacher.folder) or "none",
        template=_digest(chat_template(teacher.folder)),
        data=_digest(sorted((each.index, each.digest()) for each in sequences)),
        precision=precision,
        kept=kept,
        reference=teacher.reference,
    )


def _digest(content: object) -> str:
    return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _short(part: object) -> str:
    return str(part)[:12]
