"""Writes recipes as YAML that every reader understands the same way.

PyYAML, which mergekit uses, reads YAML 1.1: it takes `no` for false and `1e-05` for text. Such
words are quoted and such numbers written with a point.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from evomerge.recipe.lineage import as_document
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from ruamel.yaml.nodes import ScalarNode

    from evomerge.recipe.search import SearchRecipe

# A word, or a path; what starts with a digit, or with a point and a digit, may be a number.
PLAIN = re.compile(r"([A-Za-z_/]|\.{1,2}/)[\w./+@-]*", re.ASCII)
SHOWN = {
    "genome": ("operator", "layer_groups"),
    "search": ("strategy", "candidates", "generation"),
}
"""What is written of a search recipe in any case."""

WORDS_OF_YAML_1_1 = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class _Representer(RoundTripRepresenter):
    """Writes every number so that YAML 1.1 takes it for one."""


def _write_float(representer: _Representer, value: float) -> ScalarNode:
    mantissa, e, exponent = repr(value).partition("e")
    point = ".0" if e and "." not in mantissa else ""
    text = mantissa + point + e + exponent
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _write_float)


def to_yaml(document: BaseModel | dict[str, Any]) -> str:
    """Write a recipe, or plain data, as YAML; a recipe's defaults are left out."""
    data = _plain(document)
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 10_000  # a folded path or template would be hard to read
    text = io.StringIO()
    yaml.dump(_quoted(data), text)
    return text.getvalue()


def search_to_yaml(recipe: SearchRecipe) -> str:
    """Write a search recipe as YAML, with what decides most even where it is the default."""
    data, whole = _plain(recipe), recipe.model_dump(mode="json")
    shown: dict[str, Any] = {"version": whole["version"]}
    for key in whole:
        said = data.get(key)
        named = {name: whole[key][name] for name in SHOWN.get(key, ())}
        if named or said is not None:
            shown[key] = {**named, **(said or {})} if named else said
    return to_yaml(shown)


def _plain(document: BaseModel | dict[str, Any]) -> Any:
    if isinstance(document, MergeRecipe):
        return as_document(document)
    if isinstance(document, BaseModel):
        return document.model_dump(mode="json", exclude_defaults=True)
    return document


def _quoted(data: Any) -> Any:
    if isinstance(data, dict):
        return {_quoted(key): _quoted(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        values = CommentedSeq(_quoted(value) for value in data)
        if all(isinstance(value, (int, float)) for value in data):
            values.fa.set_flow_style()  # a range reads better on one line
        return values
    if isinstance(data, str) and not _is_plain(data):
        return DoubleQuotedScalarString(data)
    return data


def _is_plain(text: str) -> bool:
    return bool(PLAIN.fullmatch(text)) and text.lower() not in WORDS_OF_YAML_1_1
