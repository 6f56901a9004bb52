"""The recipes inside a recipe: each distinct one once, in memory and in files.

Lineages share parents, so a recipe that is written out wherever it is needed grows twofold with
every generation. In files, recipes that others are merged from stand in a table, `recipes`, and
are named by those that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evomerge.recipe.merge import MergeRecipe

MAX_DEPTH, MAX_INNER = 50, 500
"""How deep recipes may be nested, and how many may be inside one."""

NESTED: Mapping[str, Any] = {"base_recipe": True, "sources": {"__all__": {"recipe"}}}
"""Where a recipe has others."""


def ancestry(recipes: Iterable[MergeRecipe]) -> list[MergeRecipe]:
    """The distinct recipes inside some others, each after those inside itself."""
    found: dict[str, MergeRecipe] = {}
    for recipe in recipes:
        for inner in recipe.inner:
            _collect(inner, found)
    return list(found.values())


def _collect(recipe: MergeRecipe, found: dict[str, MergeRecipe]) -> None:
    if recipe.digest not in found:
        for inner in recipe.inner:
            _collect(inner, found)
        found[recipe.digest] = recipe


def as_document(recipe: MergeRecipe) -> dict[str, Any]:
    """A recipe as plain data, with every recipe inside it once; defaults are left out."""
    table = {_name(each): _with_names(each) for each in ancestry([recipe])}
    return _with_names(recipe) | ({"recipes": table} if table else {})


def _name(recipe: MergeRecipe) -> str:
    return recipe.digest[:12]


def _with_names(recipe: MergeRecipe) -> dict[str, Any]:
    document = recipe.model_dump(mode="json", exclude_defaults=True, exclude={**NESTED})
    for entry, source in zip(document["sources"], recipe.sources, strict=True):
        if source.recipe is not None:
            entry["recipe"] = _name(source.recipe)
    if recipe.base_recipe is not None:
        document["base_recipe"] = _name(recipe.base_recipe)
    return document


def with_named_recipes(document: Any, read: Callable[[Any], MergeRecipe]) -> Any:
    """A recipe's data in which recipes stand for the names that its table gives them.

    Args:
        document: The data; what is not meant to be a recipe with a table is left as it is.
        read: Makes a recipe of data.

    Raises:
        ValueError: A name is unknown, or stands for what is merged from itself.
        ValidationError: A recipe of the table is wrong.
    """
    if not isinstance(document, dict) or not isinstance(document.get("recipes"), dict):
        return document
    if len(document["recipes"]) > MAX_INNER:
        raise ValueError(f"recipes: has {len(document['recipes'])} entries; at most {MAX_INNER}")
    table = _Table(document["recipes"], read)
    for name in document["recipes"]:
        table.find(name)
    resolved = table.resolve(document, outermost=True)
    return {key: each for key, each in resolved.items() if key != "recipes"}


class _Table:
    def __init__(self, entries: Mapping[str, Any], read: Callable[[Any], MergeRecipe]) -> None:
        self._entries, self._read = entries, read
        self._made: dict[str, MergeRecipe | None] = {}

    def resolve(self, document: Any, *, outermost: bool = False) -> Any:
        """A recipe's data with recipes for names."""
        if not isinstance(document, dict):
            return document
        if document.get("recipes") and not outermost:
            raise ValueError(
                "recipes: stands in the outermost recipe only; move its entries there"
            )
        found = dict(document)
        if "base_recipe" in found:
            found["base_recipe"] = self._named(found["base_recipe"])
        if isinstance(found.get("sources"), list):
            found["sources"] = [
                {**entry, "recipe": self._named(entry["recipe"])}
                if isinstance(entry, dict) and "recipe" in entry
                else entry
                for entry in found["sources"]
            ]
        return found

    def _named(self, given: Any) -> Any:
        return self.find(given) if isinstance(given, str) else self.resolve(given)

    def find(self, name: str) -> MergeRecipe:
        """The recipe of a name."""
        if name not in self._entries:
            raise ValueError(f"recipes: has no {name!r}, which is named")
        if name not in self._made:
            self._made[name] = None
            if list(self._made.values()).count(None) > MAX_DEPTH:
                raise ValueError(f"recipes: more than {MAX_DEPTH} are merged from one another")
            data = self.resolve(self._entries[name])
            try:
                self._made[name] = self._read(data)
            except ValidationError as error:
                raise _beneath(error, ("recipes", name)) from None
        made = self._made[name]
        if made is None:
            raise ValueError(f"recipes.{name}: is merged from itself")
        return made


def _beneath(error: ValidationError, path: tuple[str, ...]) -> ValidationError:
    """The same findings at a place further inside."""
    findings = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{error}", {"error": each["ctx"]["error"]})
            if each["type"] == "value_error"
            else each["type"],
            loc=(*path, *each["loc"]),
            input=each["input"],
            ctx=each.get("ctx", {}),
        )
        for each in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, findings)
