"""The texts that statistics are measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.errors import EvaluationError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Texts that a model is run on to measure it.

    Attributes:
        texts: The documents; only the first `samples` are used.
        samples: Most documents used.
        max_tokens: A longer document is cut to its first so many tokens.
    """

    texts: tuple[str, ...]
    samples: int = 100
    max_tokens: int = 512

    def digest(self) -> str:
        """A fingerprint of what would be measured: the texts used and their greatest length."""
        used = [self.max_tokens, *self.texts[: self.samples]]
        return blake3(json.dumps(used).encode()).hexdigest()

    def token_ids(self, tokenizer: Any, window: int | None = None) -> list[torch.Tensor]:
        """Tokenise the texts.

        Args:
            tokenizer: A tokenizer of transformers.
            window: Most tokens the model reads at once, if it has a limit.

        Returns:
            The ids of each text, shape `(tokens,)`. Texts of a single token predict nothing and
            are left out.

        Raises:
            EvaluationError: No text is left.
        """
        length = min(self.max_tokens, window or self.max_tokens)
        documents = [
            torch.tensor(tokenizer(text)["input_ids"][:length], dtype=torch.long)
            for text in self.texts[: self.samples]
        ]
        documents = [ids for ids in documents if len(ids) > 1]
        if not documents:
            raise EvaluationError(
                f"none of {len(self.texts)} calibration texts has more than one token in its "
                f"first {length}; give longer texts"
            )
        return documents


def read_texts(file: Path) -> tuple[str, ...]:
    """Read calibration texts.

    Args:
        file: A `.txt` file with one document per line, or a `.jsonl` file with an object per
            line that has `text`, or `prompt` and `completion`. Empty lines do not count.

    Raises:
        RecipeError: The file cannot be read, is of another kind, or holds no text.
    """
    if file.suffix not in {".txt", ".jsonl"}:
        raise RecipeError(f"{file}: calibration texts are read from .txt and .jsonl files only")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: is not UTF-8 at byte {error.start}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    texts = tuple(
        line if file.suffix == ".txt" else _document(f"{file}: line {number}", line)
        for number, line in numbered
        if line
    )
    if not texts:
        raise RecipeError(f"{file}: holds no text; write one document per line")
    return texts


def _document(where: str, line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RecipeError(f"{where} is not JSON: {error}") from error
    for keys in (("text",), ("prompt", "completion")):
        if isinstance(record, dict) and all(isinstance(record.get(key), str) for key in keys):
            return "".join(record[key] for key in keys)
    found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
    raise RecipeError(
        f"{where} has {found}; expected the text 'text', or the texts 'prompt' and 'completion'"
    )
