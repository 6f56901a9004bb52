"""Loads recipes from YAML and says what is wrong with them, line by line."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from evomerge.errors import RecipeError
from evomerge.recipe import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_text(file: Path) -> str:
    """Read a recipe file.

    Raises:
        RecipeError: It is missing, a folder, unreadable or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise RecipeError(f"{file}: is a folder; give the recipe file itself") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from None


def load(model: type[Recipe], file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe file and check it.

    Args:
        model: `MergeRecipe` or `SearchRecipe`.
        file: The YAML file.
        overrides: `path.to.key=value` texts; the value is YAML.

    Raises:
        RecipeError: Anything is wrong; every finding is named, one per line of the message.
    """
    return validate(model, yaml.parse(read_text(file), str(file)), overrides)


def validate(
    model: type[Recipe], document: yaml.Document, overrides: Sequence[str] = ()
) -> Recipe:
    """Check a parsed document; see `load`."""
    if not isinstance(document.data, dict):
        raise RecipeError(f"{document.name}: expected keys and values at the top")
    for override in overrides:
        _apply(override, document)
    version = document.data.get("version", 1)
    if version != 1:
        raise RecipeError(
            f"{document.at(('version',))}: version {version!r} is not known here; "
            "this evomerge reads version 1, a newer one may be needed"
        )
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        findings = [_describe(detail, document, model) for detail in error.errors()]
        raise RecipeError("\n".join(findings)) from None


def _apply(override: str, document: yaml.Document) -> None:
    """Set one value in a document, as `--set search.seed=3` asks for."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override}: expected KEY=VALUE, e.g. search.seed=3")
    value = yaml.parse(text, f"--set {path}").data if text.strip() else ""
    keys = tuple(int(k) if k.isdigit() else k for k in path.split("."))
    place: Any = document.data
    for key in keys[:-1]:
        place = _step_into(place, key, override)
    last: Any = keys[-1]
    if isinstance(place, list) and (not isinstance(last, int) or last >= len(place)):
        raise RecipeError(f"--set {override}: the list has {len(place)} entries, counted from 0")
    if not isinstance(place, (list, dict)):
        raise RecipeError(f"--set {override}: {keys[-2]!r} holds {place!r}, not keys")
    place[last] = value
    document.lines.pop(keys, None)


def _step_into(place: Any, key: str | int, override: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(key, {})
    if isinstance(place, list) and isinstance(key, int) and key < len(place):
        return place[key]
    raise RecipeError(f"--set {override}: there is nothing at {key!r}")


def _describe(detail: ErrorDetails, document: yaml.Document, model: type[BaseModel]) -> str:
    path = _data_path(detail, document.data)
    dotted = ".".join(str(key) for key in path)
    where = f"{document.at(path)}: {dotted}" if dotted else document.at(path)
    match detail["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_suggest(str(path[-1]), detail, model)}"
        case "missing":
            return f"{where}: is missing"
        case "value_error":
            return f"{where}: {detail['ctx']['error']}"
        case _:
            message = detail["msg"][0].lower() + detail["msg"][1:]
            return f"{where}: {message}, found {_shorten(detail['input'])}"


def _data_path(detail: ErrorDetails, data: Any) -> yaml.Path:
    """The part of pydantic's location that is in the data; the rest names union branches."""
    path: list[str | int] = []
    *parents, last = detail["loc"] or ("",)
    for key in parents:
        if _has(data, key):
            path.append(key)
            data = data[key]
    if last != "" and (_has(data, last) or detail["type"] == "missing"):
        path.append(last)
    return tuple(path)


def _has(data: Any, key: str | int) -> bool:
    if isinstance(data, dict):
        return key in data
    return isinstance(data, list) and isinstance(key, int) and key < len(data)


def _suggest(key: str, detail: ErrorDetails, model: type[BaseModel]) -> str:
    known = _keys_beside(detail, model)
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _keys_beside(detail: ErrorDetails, model: type[BaseModel]) -> list[str]:
    """The keys that the schema allows where an unknown one was found."""
    schema = model.model_json_schema()
    node: Any = schema
    for key in detail["loc"][:-1]:
        node = _child(node, key, schema) or node
    node = _resolve(node, schema)
    return list(node.get("properties", {}))


def _resolve(node: Any, schema: Any) -> Any:
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rpartition("/")[2]]
    for option in node.get("anyOf", ()):
        if "$ref" in option:
            return _resolve(option, schema)
    return node


def _child(node: Any, key: str | int, schema: Any) -> Any:
    node = _resolve(node, schema)
    if isinstance(key, int):
        return node.get("items")
    if key in node.get("properties", {}):
        return node["properties"][key]
    if "additionalProperties" in node:
        return node["additionalProperties"]
    # The key is the name of a union's branch, of which only the list of rules has keys.
    return next(
        (option for option in node.get("oneOf", ()) if option.get("type") == "array"), None
    )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
