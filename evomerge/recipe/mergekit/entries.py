"""Reads mergekit's keys one by one and refuses what mergekit would drop in silence."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from evomerge.recipe.yaml import Document, Path

NOT_READ = {"tokenizer", "tokenizer_source", "chat_template", "modules", "override_architecture"}


@dataclass(frozen=True, slots=True)
class Entries:
    """The parts of a mergekit document, each checked when it is read."""

    document: Document

    def refuse(self, path: Path, problem: str) -> NoReturn:
        """Say what is wrong at a place of the document."""
        raise RecipeError(f"{self.document.at(path)}: {problem}")

    def keys(self, given: Any, path: Path, known: Collection[str]) -> Mapping[str, Any]:
        """Keys and values, of which every key is known; none when absent."""
        if given is None and path:
            return {}
        if not isinstance(given, dict):
            self.refuse(path, f"expected keys and values, found {given!r}")
        for key in given:
            if key in known:
                continue
            if key in NOT_READ or key == "base_model":
                self.refuse((*path, key), f"{key} is not read yet here")
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            self.refuse((*path, key), f"{key}: unknown key, which mergekit would ignore; {hint}")
        return given

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
            self.keys(given, path, {"model", "lora"})
            parts = (given["model"], given.get("lora"))
            return "+".join(self.model(part, path) for part in parts if part is not None)
        if isinstance(given, dict) and "path" in given:
            self.keys(given, path, {"path", "revision"})
            parts = (given["path"], given.get("revision"))
            return "@".join(self.model(part, path) for part in parts if part is not None)
        if not isinstance(given, str) or not given:
            self.refuse(path, f"model: expected a folder or a Hub id, found {given!r}")
        return given
