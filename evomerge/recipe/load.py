"""Loads recipes from YAML and says what is wrong with them, line by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from evomerge.errors import RecipeError, VersionError, did_you_mean
from evomerge.recipe import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_text(file: Path) -> str:
    """Read a recipe file.

    Raises:
        RecipeError: It is missing, a folder, unreadable, huge or not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(yaml.MAX_BYTES + 1)
        if len(content) > yaml.MAX_BYTES:
            raise RecipeError(f"{file}: larger than {yaml.MAX_BYTES:,} bytes; not a recipe")
        # Not utf-8-sig, which counts the offset of an error from the end of the mark.
        return content.decode().removeprefix("\ufeff")
    except FileNotFoundError:
        raise RecipeError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise RecipeError(f"{file}: is a folder; give the recipe file itself") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name that no file can have
        raise RecipeError(f"{str(file)!r}: cannot be read: {error}") from None


def load(model: type[Recipe], file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe file and check it.

    Args:
        model: `MergeRecipe` or `SearchRecipe`.
        file: The YAML file.
        overrides: `path.to.key=value` texts; the value is YAML.

    Raises:
        RecipeError: Anything is wrong; every finding is named, one per line of the message.
        VersionError: The recipe is written for a later evomerge.
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
    _check_version(document)
    _refuse_other_kind(model, document)
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        findings = [_describe(detail, document, model) for detail in error.errors()]
        raise RecipeError("\n".join(findings)) from None


def _refuse_other_kind(model: type[Recipe], document: yaml.Document) -> None:
    """Say so if a recipe is one of the other kind, which would be a list of unknown keys."""
    kinds = {
        "evaluation": "is a search recipe; give it to evomerge search or evomerge check",
        "operator": "is a merge recipe; give it to evomerge merge",
    }
    for mark, told in kinds.items():
        if mark in document.data and mark not in model.model_fields:
            raise RecipeError(f"{document.name}: {told}")


def _check_version(document: yaml.Document) -> None:
    version = document.data.get("version", 1)
    where = f"{document.at(('version',))}: version"
    if type(version) is not int or version < 1:
        raise RecipeError(f"{where}: expected 1, found {_shorten(version)}")
    if version > 1:
        raise VersionError(
            f"{where}: found {version}, this evomerge reads 1; a newer evomerge is needed"
        )


def _apply(override: str, document: yaml.Document) -> None:
    """Set one value in a document, as `--set search.seed=3` asks for."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(f"--set {override}: expected KEY=VALUE, e.g. search.seed=3")
    value = yaml.parse(text, f"--set {path}").data if text.strip() else ""
    place: Any = document.data
    done: yaml.Path = ()
    *parents, last = path.split(".")
    for word in parents:
        key = _key(place, word, done, override)
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place, done = place[key], (*done, key)
    key = _key(place, last, done, override)
    place[key] = value
    document.overrides.add((*done, key))


def _key(place: Any, word: str, path: yaml.Path, override: str) -> Any:
    """The key or index that a word of an override's path means."""
    if isinstance(place, dict):
        return word
    if not isinstance(place, list):
        raise RecipeError(f"--set {override}: {_dotted(path)} holds {_shorten(place)}, not keys")
    if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= len(place):
        raise RecipeError(
            f"--set {override}: {_dotted(path)} has {len(place)} entries, counted from 0, "
            f"none of them {word!r}"
        )
    return int(word)


def _describe(detail: ErrorDetails, document: yaml.Document, model: type[BaseModel]) -> str:
    path = _data_path(detail, document.data)
    where = f"{document.at(path)}: {_dotted(path)}" if path else document.at(path)
    found = f"found {_shorten(detail['input'])}"
    match detail["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_suggest(str(path[-1]), detail, model)}"
        case "missing":
            return f"{where}: is missing"
        case "value_error":
            return f"{where}: {detail['ctx']['error']}"
        case "literal_error" | "enum":
            hint = did_you_mean(
                str(detail["input"]), re.findall(r"'(.*?)'", detail["ctx"]["expected"])
            )
            return f"{where}: expected {detail['ctx']['expected']}, {found}{hint}"
        case kind:
            return f"{where}: {_EXPECTED.get(kind) or _in_lower_case(detail['msg'])}, {found}"


# Where pydantic speaks of Python's types.
_EXPECTED = {
    "dict_type": "expected keys and values",
    "mapping_type": "expected keys and values",
    "model_type": "expected keys and values",
    "tuple_type": "expected a list",
    "too_long": "too many entries",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
}


def _in_lower_case(message: str) -> str:
    return message[0].lower() + message[1:]


def _dotted(path: yaml.Path) -> str:
    # A key may be any text; what is no plain word must not break the message's line.
    return ".".join(
        str(key) if re.fullmatch(r"[\w/@+-]+", str(key)) else repr(key) for key in path
    )


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
    known_keys = f"; known: {', '.join(sorted(known))}" if known else ""
    return did_you_mean(key, known) or known_keys


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
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
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
