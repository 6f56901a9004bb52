"""Tensors of candidates that others are merged from, kept while they are used."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

MOST_BYTES = 2 << 30
"""Room for tensors; those that were not used for longest make room for others."""

REMEMBERED = 256
"""Number of plans."""

Plan = TypeVar("Plan")


class Ancestors(Generic[Plan]):
    """Of a lineage, every ancestor is merged once as long as there is room, not once per heir.

    Args:
        most_bytes: Room for tensors.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._tensors: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    def plan(self, digest: str, make: Callable[[], Plan]) -> Plan:
        """How a candidate is merged; made if it is not known."""
        if digest not in self._plans:
            self._plans[digest] = make()
            if len(self._plans) > REMEMBERED:
                self._plans.popitem(last=False)
        self._plans.move_to_end(digest)
        return self._plans[digest]

    def tensor(self, digest: str, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor of a candidate, never to be written to; made if it is not known."""
        key = (digest, name)
        if key not in self._tensors:
            made = make()
            self._tensors[key] = made
            self._bytes += made.nbytes
            while self._bytes > self._most_bytes and len(self._tensors) > 1:
                self._bytes -= self._tensors.popitem(last=False)[1].nbytes
        self._tensors.move_to_end(key)
        return self._tensors[key]
