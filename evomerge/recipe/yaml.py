"""Reads YAML as plain data that remembers its line numbers, and nothing more than data.

YAML 1.2 scalars; tags, duplicate keys, alias bombs and absurd sizes or depths are errors. Nothing
in a file can run code or reach another file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from evomerge.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000

Path = tuple[str | int, ...]

if TYPE_CHECKING:
    from collections.abc import Callable

_SCALARS = {"int", "float", "bool", "null", "str"}
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Document:
    """YAML data and where each part of it stands.

    Attributes:
        data: Dictionaries, lists and scalars.
        lines: Line of each key and list entry, counted from 1, by its path.
        name: What the text is called in messages, usually a file name.
    """

    data: Any
    lines: dict[Path, int]
    name: str

    def at(self, path: Path) -> str:
        """The place of a path for a message, e.g. `recipe.yaml:12`."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path in self.lines else self.name


def parse(text: str, name: str) -> Document:
    """Parse one YAML document.

    Raises:
        RecipeError: The text is not plain YAML data; the message has name, line and cause.
    """
    if len(text.encode()) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES:,} bytes; not a recipe")
    try:
        node = YAML(pure=True).compose(text)
    except RecursionError:
        raise RecipeError(f"{name}: nested deeper than {MAX_DEPTH} levels") from None
    except YAMLError as error:
        raise RecipeError(f"{name}{_explain(error, text)}") from None
    if node is None:
        raise RecipeError(f"{name}: is empty")
    reader = _Reader(name)
    return Document(reader.read(node, ()), reader.lines, name)


def _explain(error: YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return f": {problem}"
    lines = text.splitlines()
    line = f": {lines[mark.line].strip()!r}" if mark.line < len(lines) else ""
    return f":{mark.line + 1}:{mark.column + 1}: not valid YAML, {problem}{line}"


@dataclass
class _Reader:
    name: str
    lines: dict[Path, int] = field(default_factory=dict)
    count: int = 0

    def read(self, node: Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.count += 1
        # Aliases are expanded, so a small text may stand for a huge document.
        if self.count > MAX_NODES:
            raise RecipeError(f"{self.name}:{line}: too many entries or aliases")
        if len(path) > MAX_DEPTH:
            raise RecipeError(f"{self.name}:{line}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            self._refuse_tag(node, "seq")
            return [self.read(entry, (*path, i)) for i, entry in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # noqa: S101 (YAML has no fourth kind)
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        self._refuse_tag(node, "map")
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise RecipeError(f"{self.name}:{line}: a key must be a plain word")
            place = (*path, key)
            if key in data:
                raise RecipeError(
                    f"{self.name}:{line}: {key!r} is given twice, first in line {self.lines[place]}"
                )
            self.lines[place] = line
            data[key] = self.read(value_node, place)
        return data

    def _scalar(self, node: ScalarNode) -> Any:
        tag = str(node.tag).removeprefix(_PREFIX)
        if tag not in _SCALARS:
            self._refuse_tag(node, "str")
        return _CONVERT[tag](node.value)

    def _refuse_tag(self, node: Node, expected: str) -> None:
        if str(node.tag) != _PREFIX + expected:
            line = node.start_mark.line + 1
            raise RecipeError(f"{self.name}:{line}: tags such as {node.tag!s} are not allowed")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0 if re.match(r"[-+]?0[xob]", digits) else 10)


_CONVERT: dict[str, Callable[[str], Any]] = {
    "int": _integer,
    "float": lambda text: float(
        text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
    ),
    "bool": lambda text: text.lower() == "true",
    "null": lambda _: None,
    "str": str,
}
