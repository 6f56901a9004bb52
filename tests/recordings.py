"""A tiny teacher and what it is asked, for tests of what is recorded of teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evomerge.checkpoints import open_checkpoint
from evomerge.live_model import load_checkpoint
from evomerge.refinement.cache.key import CacheKey, cache_key
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.teachers.build import build
from evomerge.refinement.texts.examples import Content, Example
from evomerge.refinement.texts.sequences import Sequence, make_sequences

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evomerge.refinement.cache.teacher_cache import TeacherCache

VOCABULARY = 257
TOP = Kept(vocabulary=VOCABULARY, k=8)
SAMPLED = Kept(vocabulary=VOCABULARY, kind="sampled", k=20)


@dataclass
class Recording:
    """The model `one` and what it is asked."""

    model: Any
    sequences: tuple[Sequence, ...]
    key: CacheKey

    @property
    def rows(self) -> int:
        return sum(int(sequence.supervised.sum()) for sequence in self.sequences)

    def build(self, folder: Path, **settings: Any) -> TeacherCache:
        usual = {"key": self.key, "sequences": self.sequences, "load": lambda: self.model}
        return build(folder, **usual | settings)


def recording(family: Path, contents: Iterable[Content], kept: Kept = TOP) -> Recording:
    checkpoint = open_checkpoint("one", root=family)
    model, tokenizer = load_checkpoint(checkpoint, torch.float32, torch.device("cpu"))
    examples = [Example(content=content) for content in contents]
    sequences = make_sequences(examples, tokenizer, 64).sequences
    key = cache_key(checkpoint, sequences, kept, precision="float32")
    return Recording(model=model, sequences=sequences, key=key)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but its lock."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
