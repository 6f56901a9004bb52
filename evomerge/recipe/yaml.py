"""Reads YAML as plain data that remembers its line numbers, and nothing more than data.

Scalars follow the core schema of YAML 1.2, whatever a `%YAML` directive says. Tags, duplicate
keys, alias bombs and absurd sizes or depths are errors. Nothing in a file can run code or reach
another file.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from evomerge.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 50_000

Path = tuple[str | int, ...]

if TYPE_CHECKING:
    from collections.abc import Iterator

# Section 10.3.2 of YAML 1.2.2.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_AMBIGUOUS = re.compile(r"[-+]?0[0-9]+")
_MAX_DIGITS = 400  # more than any float64 has


@dataclass(frozen=True, slots=True)
class Document:
    """YAML data and where each part of it stands.

    Attributes:
        data: Dictionaries, lists and scalars.
        lines: Line of each key and list entry, counted from 1, by its path.
        name: What the text is called in messages, usually a file name.
        overrides: Paths that `--set` gave.
    """

    data: Any
    lines: dict[Path, int]
    name: str
    overrides: set[Path] = field(default_factory=set)

    def at(self, path: Path) -> str:
        """The place of a path for a message, e.g. `recipe.yaml:12`."""
        if any(path[: len(given)] == given for given in self.overrides):
            return "--set"
        while path and path not in self.lines:
            if any(given[: len(path)] == path for given in self.overrides):
                return "--set"  # a section that is there because of an override
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path in self.lines else self.name

    def under(self, key: str) -> Document:
        """What stands under a key of the top, as a document of its own."""
        lines = {path[1:]: line for path, line in self.lines.items() if path[:1] == (key,)}
        return Document(self.data[key], lines, self.name)


def parse(text: str, name: str) -> Document:
    """Parse one YAML document.

    Raises:
        RecipeError: The text is not plain YAML data; the message has name, line and cause.
    """
    return _parse(text, name, most=1)[0]


def parse_all(text: str, name: str) -> list[Document]:
    """Parse one or more YAML documents; see `parse`."""
    return _parse(text, name, most=MAX_NODES)


def with_merge_keys(data: Any) -> Any:
    """Data whose mappings have the entries that `<<` takes over from others, as in YAML 1.1."""
    if isinstance(data, list):
        return [with_merge_keys(each) for each in data]
    if not isinstance(data, dict):
        return data
    own = {key: with_merge_keys(value) for key, value in data.items() if key != "<<"}
    given = with_merge_keys(data.get("<<", []))
    others = given if isinstance(given, list) else [given]
    if not all(isinstance(other, dict) for other in others):
        return {**own, "<<": given}
    return {key: value for other in reversed(others) for key, value in other.items()} | own


def _parse(text: str, name: str, most: int) -> list[Document]:
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES:,} bytes; not a recipe")
    try:
        return _read(YAML(typ="safe", pure=True).parse(text), name, most)
    except YAMLError as error:
        raise RecipeError(f"{name}{_explain(error, text)}") from None


def _read(events: Iterator[Any], name: str, most: int) -> list[Document]:
    documents: list[Document] = []
    for event in events:
        if not isinstance(event, DocumentStartEvent):
            continue
        if len(documents) == most:
            line = event.start_mark.line + 1
            raise RecipeError(f"{name}:{line}: a second document starts here; give one")
        reader = _Reader(name, events)
        documents.append(Document(reader.read(next(events), ()), reader.lines, name))
    if not documents:
        raise RecipeError(f"{name}: is empty")
    return documents


def _explain(error: YAMLError, text: str) -> str:
    lines = re.split(r"\r\n|\r|\n", text)
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is not None:
        number, column = mark.line, mark.column
    else:  # a character that YAML forbids; all that is known is its position
        before = re.split(r"\r\n|\r|\n", text[: getattr(error, "position", 0)])
        number, column = len(before) - 1, len(before[-1])
    shown = repr(lines[number].strip()) if number < len(lines) else "''"
    line = f": {shown[:77]}" if shown != "''" else ""
    return f":{number + 1}:{column + 1}: not valid YAML, {problem}{line}"


@dataclass(frozen=True, slots=True)
class _Anchored:
    data: Any
    count: int
    height: int


@dataclass
class _Reader:
    name: str
    events: Iterator[Any]
    lines: dict[Path, int] = field(default_factory=dict)
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    count: int = 0
    deepest: int = 0

    def read(self, event: Any, path: Path) -> Any:
        line = event.start_mark.line + 1
        self.lines.setdefault(path, line)
        if isinstance(event, AliasEvent):
            return self._alias(event, path, line)
        self._grow(1, len(path), line)
        if event.ctag is not None:
            raise RecipeError(f"{self.name}:{line}: tags such as {event.ctag!s} are not allowed")
        count, deepest = self.count - 1, self.deepest
        self.deepest = len(path)
        data = self._content(event, path, line)
        if event.anchor is not None:
            height = self.deepest - len(path)
            self.anchors[event.anchor] = _Anchored(data, self.count - count, height)
        self.deepest = max(deepest, self.deepest)
        return data

    def _content(self, event: Any, path: Path, line: int) -> Any:
        if isinstance(event, MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, line)

    def _grow(self, count: int, depth: int, line: int) -> None:
        # Aliases count for what they stand for, so a small text cannot mean a huge document.
        self.count += count
        self.deepest = max(self.deepest, depth)
        if self.count > MAX_NODES:
            raise RecipeError(f"{self.name}:{line}: too many entries or aliases")
        if depth > MAX_DEPTH:
            raise RecipeError(f"{self.name}:{line}: nested deeper than {MAX_DEPTH} levels")

    def _alias(self, event: AliasEvent, path: Path, line: int) -> Any:
        anchored = self.anchors.get(event.anchor or "")
        if anchored is None:
            raise RecipeError(
                f"{self.name}:{line}: *{event.anchor} stands for nothing that ends above it"
            )
        self._grow(anchored.count, len(path) + anchored.height, line)
        return copy.deepcopy(anchored.data)

    def _sequence(self, path: Path) -> list[Any]:
        data: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            data.append(self.read(event, (*path, len(data))))
        return data

    def _mapping(self, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, ScalarEvent) or event.ctag is not None:
                raise RecipeError(f"{self.name}:{line}: a key must be a plain word")
            place = (*path, event.value)
            if event.value in data:
                raise RecipeError(
                    f"{self.name}:{line}: {event.value!r} is given twice, "
                    f"first in line {self.lines[place]}"
                )
            self.lines[place] = line
            data[event.value] = self.read(next(self.events), place)
        return data

    def _scalar(self, event: ScalarEvent, line: int) -> Any:
        text = event.value
        if event.style is not None or not event.implicit[0]:
            return text  # quoted or a block
        if _NULL.fullmatch(text):
            return None
        if found := _BOOL.fullmatch(text):
            return found[1] is not None
        if not _FLOAT.fullmatch(text) and not _INT.fullmatch(text):
            return text
        if _AMBIGUOUS.fullmatch(text):
            raise RecipeError(
                f"{self.name}:{line}: {text}: YAML 1.1 reads this in base 8 and YAML 1.2 in base "
                f"10; write {int(text)}, or quote it"
            )
        if len(text) > _MAX_DIGITS:
            raise RecipeError(f"{self.name}:{line}: a number of {len(text)} digits")
        if _INT.fullmatch(text):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        return float(re.sub(r"\.(?=[inIN])", "", text))
