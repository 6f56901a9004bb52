"""Groups of tensors that are looked at together: each layer, each module outside the layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from evomerge.layout import Component, locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Value = TypeVar("Value")

_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.)")
# Where a part outside the layers is in a forward pass.
_ORDER = {Component.EMBEDDING: 0, Component.NORM: 2, Component.HEAD: 3}


def layer_group(name: str) -> str:
    """The group of a tensor: its layer, such as `model.layers.7`, or the module that owns it.

    So the embedding, the final norm and the head are groups of their own.
    """
    layer = _LAYER.match(name)
    return layer[0] if layer else name.rpartition(".")[0] or name


def group_labels(groups: Iterable[str]) -> list[str]:
    """Short names of groups: the layer's index or the module's last name, where that is unique."""
    groups = list(groups)
    short = [group.rpartition(".")[2] for group in groups]
    return [
        label if short.count(label) == 1 else group
        for label, group in zip(short, groups, strict=True)
    ]


def by_layer(values: Mapping[str, Value]) -> dict[str, list[Value]]:
    """Gather values of tensors by group, in the order of a forward pass.

    Args:
        values: A value for each tensor, by its name.
    """
    groups: dict[str, list[Value]] = {}
    for name in sorted(values, key=_position):
        groups.setdefault(layer_group(name), []).append(values[name])
    return groups


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as first and last of each, in ascending order."""
    found: list[tuple[int, int]] = []
    for index in sorted(indices):
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def _position(name: str) -> tuple[int, int, str]:
    place = locate(name)
    if place.layer is not None:
        return 1, place.layer, name
    return _ORDER.get(place.component, 0), 0, name
