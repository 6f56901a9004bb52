"""Writes a parameter's values as mergekit does: by text in the names of tensors."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.recipe.merge import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Table = dict[str, Value]
"""A parameter's value for each tensor, by the tensor's name or by its part after the layer."""


def entries(values: Table, short: Mapping[str, str], parameter: str) -> Any:
    """A parameter's values as mergekit writes them: one value, or a list with filters.

    Args:
        values: The value of each tensor.
        short: The part of a tensor's name after its layer.
        parameter: The parameter's name, for messages.

    Raises:
        RecipeError: Two tensors cannot be told apart by text in their names.
    """
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    # What most tensors have comes last, without a filter.
    rest = Counter(values.values()).most_common(1)[0][0]
    loose = {name: value for name, value in values.items() if name not in short}
    inside = {short[name]: value for name, value in values.items() if name in short}
    found = _filters(loose | _modules(inside), rest)
    if _wrong(found, values):
        # The shortest texts will not do. A filter for each tensor will, when a name that contains
        # another comes before it.
        every = loose | inside
        found = _filters({n: every[n] for n in sorted(every, key=len, reverse=True)}, None)
        found.append({"value": rest})
        for entry in [entry for entry in found[:-1] if entry["value"] == rest]:
            fewer = [other for other in found if other is not entry]
            found = found if _wrong(fewer, values) else fewer
    wrong = _wrong(found, values)
    if wrong:
        raise RecipeError(
            f"mergekit cannot tell {wrong[0]} from others by text in its name; "
            f"{parameter} cannot be expressed"
        )
    return found


def _modules(values: Table) -> Table:
    """The values of a layer's modules, and of single tensors where a module has several."""
    found: Table = {}
    for module, group in groupby(values.items(), key=lambda item: item[0].partition(".")[0]):
        members = dict(group)
        alike = len(members) > 1 and len(set(members.values())) == 1
        found |= {module: next(iter(members.values()))} if alike else members
    return found


def _filters(values: Table, rest: Value | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"filter": text, "value": value} for text, value in values.items() if value != rest
    ]
    return found if rest is None else [*found, {"value": rest}]


def _wrong(found: Sequence[Mapping[str, Any]], values: Table) -> list[str]:
    """The tensors whose first matching entry gives another value."""
    return [
        name
        for name, value in values.items()
        if next(e["value"] for e in found if e.get("filter", "") in name) != value
    ]
