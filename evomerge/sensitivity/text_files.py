"""Reads files of texts, and says of a line that cannot be used where it is and what it holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def read_documents(
    file: Path, parse: Callable[[object], T | None], *, what: str, expected: str
) -> list[tuple[str, T]]:
    """Read a `.txt` file with one document per line, or a `.jsonl` file with a record per line.

    Args:
        file: The file; empty lines do not count.
        parse: Makes a document of a record, or nothing if the record is of another form. A line
            of a `.txt` file is the record `{"text": line}`.
        what: What is read, for messages.
        expected: The forms that `parse` knows, for messages.

    Returns:
        Where each document was, as file and line, and the document.

    Raises:
        RecipeError: The file cannot be read, is of another kind, or holds no document.
    """
    if file.suffix not in {".txt", ".jsonl"}:
        raise RecipeError(f"{file}: {what} are read from .txt and .jsonl files only")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: is not UTF-8 at byte {error.start}") from error
    documents = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line:
            where = f"{file}: line {number}"
            record = {"text": line} if file.suffix == ".txt" else _record(where, line)
            document = parse(record)
            if document is None:
                raise RecipeError(f"{where} has {_outline(record)}; expected {expected}")
            documents.append((where, document))
    if not documents:
        line = "a document" if file.suffix == ".txt" else f"an object with {expected}"
        raise RecipeError(f"{file}: holds no text; write {line} in each line")
    return documents


def _record(where: str, line: str) -> object:
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):  # its line is the one of this text
            reason = f"{error.msg}, at column {error.colno}"
        raise RecipeError(f"{where} is not JSON: {reason}") from error
    return record


def _outline(record: object) -> str:
    if not isinstance(record, dict):
        return type(record).__name__
    return ", ".join(f"{key} ({type(value).__name__})" for key, value in record.items())
