"""Reads mergekit's keys one by one and refuses what mergekit would drop in silence."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from evomerge.errors import RecipeError, nearest
from evomerge.recipe.yaml import with_merge_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from typing_extensions import Self

    from evomerge.recipe.yaml import Document, Path

FLAG = "--mergekit-compat"

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


@dataclass(frozen=True, slots=True)
class Entries:
    """The parts of a mergekit document, each checked when it is read.

    Attributes:
        document: The parsed YAML.
        lenient: Do as mergekit does where that is unsafe.
        notes: What was done so.
    """

    document: Document
    lenient: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, document: Document, *, lenient: bool = False) -> Self:
        """The entries of a document, whose merge keys are followed, as PyYAML does."""
        return cls(replace(document, data=with_merge_keys(document.data)), lenient=lenient)

    def refuse(self, path: Path, problem: str) -> NoReturn:
        """Say what is wrong at a place of the document."""
        raise RecipeError(f"{self.document.at(path)}: {problem}")

    def doubt(self, path: Path, problem: str) -> None:
        """Refuse what mergekit lets pass to the user's harm, unless asked to do as it does."""
        if not self.lenient:
            self.refuse(path, f"{problem}; {FLAG} does as mergekit does")
        self.notes.append(f"{self.document.at(path)}: {problem}")

    def keys(self, given: Any, path: Path, known: Collection[str]) -> Mapping[str, Any]:
        """Keys and values, of which every key is known; none when absent."""
        if given is None and path:
            return {}
        if not isinstance(given, dict):
            self.refuse(path, f"expected keys and values, found {given!r}")
        for key in given:
            if key not in known:
                near = nearest(str(key), known)
                hint = f"did you mean {near!r}?" if near else "known: " + _list(known)
                self.doubt(
                    (*path, key), f"{key}: unknown key, which mergekit would ignore; {hint}"
                )
        return {key: value for key, value in given.items() if key in known}

    def items(self, given: Any, path: Path) -> list[Any]:
        """A list with something in it."""
        if not isinstance(given, list) or not given:
            self.refuse(path, f"{path[-1]}: expected a list of entries, found {given!r}")
        return given

    def layer_range(self, given: Any, path: Path) -> tuple[int, int]:
        """First layer, and one past the last."""
        if (
            not isinstance(given, list)
            or [type(end) for end in given] != [int, int]
            or not 0 <= given[0] < given[1]
        ):
            self.refuse(path, f"layer_range: expected two rising layers, found {given!r}")
        return given[0], given[1]

    def model(self, given: Any, path: Path) -> str:
        """A model as `model@revision+adapter@revision`, however mergekit writes it."""
        if isinstance(given, dict) and "model" in given:
            self.keys(given, path, {"model", "lora", "override_architecture"})
            if given.get("override_architecture") is not None:
                self.notes.append(
                    f"{self.document.at((*path, 'override_architecture'))}: "
                    "override_architecture has no effect, tensors are found by their names"
                )
            parts = (given["model"], given.get("lora"))
            return "+".join(self.model(part, path) for part in parts if part is not None)
        if isinstance(given, dict) and "path" in given:
            self.keys(given, path, {"path", "revision"})
            parts = (given["path"], given.get("revision"))
            return "@".join(self.model(part, path) for part in parts if part is not None)
        if not isinstance(given, str) or not given:
            self.refuse(path, f"model: expected a folder or a Hub id, found {given!r}")
        return given

    def flag(self, given: Any, name: str, path: Path) -> bool:
        """True or false, in any of the words that mergekit takes for them."""
        found = given if isinstance(given, bool) else _FLAGS.get(str(given).lower())
        if found is None:
            self.refuse(path, f"{name}: expected true or false, found {given!r}")
        return found

    def number(self, given: Any, name: str, path: Path) -> float:
        """A finite number, also in quotes or as a flag, as mergekit takes them."""
        if isinstance(given, str) and _NUMBER.fullmatch(given):
            given = float(given)
        if not isinstance(given, (int, float)):
            self.refuse(path, f"{name}: expected a number or a list of them, found {given!r}")
        if abs(given) > sys.float_info.max or math.isnan(given):
            self.refuse(
                path,
                f"{name}: expected a finite number, found {given!r}; mergekit would write a model "
                "full of NaN",
            )
        return given + 0.0 if isinstance(given, bool) else given


def _list(known: Collection[str]) -> str:
    return ", ".join(sorted(known))
