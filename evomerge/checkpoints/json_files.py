"""Read a JSON object from a file of a model folder, with one-line errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MAX_JSON_BYTES = 200_000_000


def read_bytes(file: Path) -> bytes:
    """Return the content of a small file.

    Raises:
        ModelError: The file is missing, unreadable or suspiciously large.
    """
    try:
        size = file.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelError(f"{file}: {size} bytes are too many; allowed: {MAX_JSON_BYTES}.")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{file}: no such file; the model folder is incomplete, fetch it."
        ) from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}.") from error


def parse_object(content: bytes, file: Path) -> dict[str, Any]:
    """Parse the JSON object that was read from `file`.

    Raises:
        ModelError: `content` is not JSON, or no object.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not valid JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{file}: expected a JSON object, found {type(parsed).__name__}.")
    return parsed


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises:
        ModelError: The file cannot be read, is not JSON, or holds no object.
    """
    return parse_object(read_bytes(file), file)
