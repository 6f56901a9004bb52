"""The texts that statistics are measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from blake3 import blake3

from evomerge.errors import EvaluationError
from evomerge.sensitivity.text_files import read_documents

if TYPE_CHECKING:
    from pathlib import Path


class Prompted(NamedTuple):
    """A text of which only the end is to be predicted.

    Attributes:
        prompt: What is given.
        completion: What follows it.
    """

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text as a model reads it.

    Attributes:
        ids: Its tokens, shape `(tokens,)`.
        start: The first token that counts in a loss; at least 1, as nothing predicts the first.
    """

    ids: torch.Tensor
    start: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Texts that a model is run on to measure it.

    Attributes:
        texts: Plain texts and texts with a prompt; only the first `samples` are used.
        samples: Most documents used.
        max_tokens: A longer document is cut to its first so many tokens.
    """

    texts: tuple[str | Prompted, ...]
    samples: int = 100
    max_tokens: int = 512

    def digest(self) -> str:
        """A fingerprint of what would be measured: the texts used and their greatest length."""
        # A text with a prompt is a list here, so that it differs from the same text without.
        used = [self.max_tokens, *self.texts[: self.samples]]
        return blake3(json.dumps(used).encode()).hexdigest()

    def documents(self, tokenizer: Any, window: int | None = None) -> list[Document]:
        """Tokenise the texts.

        Args:
            tokenizer: A tokenizer of transformers.
            window: Most tokens the model reads at once, if it has a limit.

        Returns:
            The texts without those that leave nothing to predict: those of a single token, and
            those whose completion is cut off.

        Raises:
            EvaluationError: No text is left.
        """
        length = min(self.max_tokens, window or self.max_tokens)
        found = [tokenise(tokenizer, text, length) for text in self.texts[: self.samples]]
        documents = [document for document in found if document.start < len(document.ids)]
        if not documents:
            raise EvaluationError(
                f"none of {len(self.texts)} calibration texts has a token to predict in its first "
                f"{length}, after the prompt if it has one; give longer texts or shorter prompts, "
                "or raise max_tokens"
            )
        return documents


def tokenise(tokenizer: Any, text: str | Prompted, length: int) -> Document:
    """Read a text as a model does, as lm-eval forms the tokens of a prompt and what follows it.

    Args:
        tokenizer: A tokenizer of transformers.
        text: The text.
        length: Most tokens kept.
    """
    if isinstance(text, str):
        return Document(ids=_ids(tokenizer, text)[:length])
    whole, prompt = _ids(tokenizer, "".join(text)), _ids(tokenizer, text.prompt)
    # A token may hold the end of the prompt and the start of the completion: it counts.
    shared = min(len(whole), len(prompt))
    start = int((whole[:shared] == prompt[:shared]).cumprod(dim=0).sum())
    return Document(ids=whole[:length], start=max(1, start))


def _ids(tokenizer: Any, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text)["input_ids"], dtype=torch.long)


def read_texts(file: Path) -> tuple[str | Prompted, ...]:
    """Read calibration texts.

    Args:
        file: A `.txt` file with one document per line, or a `.jsonl` file with an object per
            line that has `text`, or `prompt` and `completion`: then a loss counts the completion
            only. Empty lines do not count.

    Raises:
        RecipeError: The file cannot be read, is of another kind, or holds no text.
    """
    expected = "the text 'text', or the texts 'prompt' and 'completion'"
    found: list[tuple[str, str | Prompted]] = read_documents(
        file, parse_text, what="calibration texts", expected=expected
    )
    return tuple(text for _, text in found)


def parse_text(record: object) -> str | Prompted | None:
    """The text that a record holds, or nothing if it is of another form."""
    match record:
        case {"text": str(text)}:
            return text
        case {"prompt": str(prompt), "completion": str(completion)}:
            return Prompted(prompt, completion)
    return None
