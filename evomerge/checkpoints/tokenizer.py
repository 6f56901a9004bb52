"""Tokenizers as files: what they contain, and which of them travel with a model.

Nothing is loaded or run; a chat template is text here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.checkpoints._confinement import confined
from evomerge.checkpoints.json_files import parse_object, read_bytes, read_object
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
# What older folders have instead of tokenizer.json, the better description first.
_OLDER = (("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer files of a model folder, which an export copies byte for byte."""
    return [file for name in _COPIED if (file := confined(folder, name)).is_file()]


def tokenizer_digest(folder: Path) -> str | None:
    """Return a digest of what the tokenizer of a model folder does; `None` if there is none.

    Layout of the JSON and the settings for truncation and padding do not count. Digests of
    tokenizers that are stored in different kinds of files always differ.
    """
    if (content := tokenizer_content(folder)) is not None:
        return _digest(_without_batching(content))
    for names in _OLDER:
        files = [confined(folder, name) for name in names]
        if files[0].is_file():
            return _digest([_content(file) for file in files if file.is_file()])
    return None


def tokenizer_content(folder: Path) -> dict[str, Any] | None:
    """Return what the tokenizer.json of a model folder says; `None` if it has none."""
    file = confined(folder, "tokenizer.json")
    return read_object(file) if file.is_file() else None


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Return the tokens of a model folder and their ids; `None` if no file tells them."""
    if (content := tokenizer_content(folder)) is not None:
        return _fast_vocabulary(content, folder / "tokenizer.json")
    if (file := confined(folder, "vocab.json")).is_file():
        added = confined(folder, "added_tokens.json")
        return read_object(file) | (read_object(added) if added.is_file() else {})
    return None


def chat_template(folder: Path) -> object:
    """Return the chat template of a model folder, unrendered; `None` if it has none."""
    if (file := confined(folder, "chat_template.jinja")).is_file():
        return read_bytes(file).decode("utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        file = confined(folder, name)
        template = read_object(file).get("chat_template") if file.is_file() else None
        if template is not None:
            return template
    return None


def _without_batching(tokenizer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in tokenizer.items() if k not in {"truncation", "padding"}}


def _content(file: Path) -> object:
    content = read_bytes(file)
    if file.suffix == ".json":
        return parse_object(content, file)
    return blake3(content).hexdigest()


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake3(canonical.encode()).hexdigest()


def _fast_vocabulary(tokenizer: dict[str, Any], file: Path) -> dict[str, int]:
    try:
        return _tokens(tokenizer)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: not a tokenizer: it has no readable vocabulary.") from error


def _tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    tokens = tokenizer["model"]["vocab"]
    if isinstance(tokens, list):  # Unigram: (token, log probability) in the order of ids
        tokens = {token: number for number, (token, _) in enumerate(tokens)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    found = dict(tokens) | added
    if not all(type(number) is int and number >= 0 for number in found.values()):
        raise ValueError("an id is no whole number")
    return found
