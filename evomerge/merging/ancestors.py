"""Tensors of candidates that others are merged from, kept while they are used."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from typing_extensions import Self

MOST_BYTES = 2 << 30
"""Room for tensors; those that were not used for longest make room for others."""

REMEMBERED = 1024
"""Number of plans: more than one lineage may have."""

Key = tuple[str, str]
"""A candidate's digest, and the name of a tensor."""


class Ancestor(Protocol):
    """A candidate that others are merged from."""

    @property
    def digest(self) -> str:
        """The digest of its recipe."""
        ...

    def make(self, name: str) -> Tensor:
        """Merge a tensor."""
        ...

    def needs(self, name: str) -> list[tuple[Self, str]]:
        """The tensors of other candidates that a tensor is merged from."""
        ...


A = TypeVar("A", bound=Ancestor)


class Ancestors(Generic[A]):
    """Of a lineage, every ancestor is merged once as long as there is room, not once per heir.

    While a tensor is merged, what is yet to be merged into it stays, whatever the room.

    Args:
        most_bytes: Room for tensors.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._tensors: OrderedDict[Key, Tensor] = OrderedDict()
        self._planned: OrderedDict[str, A] = OrderedDict()
        self._heirs: Counter[Key] = Counter()

    def planned(self, digest: str, plan: Callable[[], A]) -> A:
        """A candidate that is ready to be merged; planned if it is not known."""
        if digest not in self._planned:
            self._planned[digest] = plan()
            if len(self._planned) > REMEMBERED:
                self._planned.popitem(last=False)
        self._planned.move_to_end(digest)
        return self._planned[digest]

    def tensor(self, of: A, name: str) -> Tensor:
        """A tensor of a candidate, never to be written to; made if it is not known."""
        key = (of.digest, name)
        if key not in self._tensors:
            outermost = not self._heirs
            if outermost:
                self._heirs = self._count_heirs(of, name)
            try:
                self._keep(key, of.make(name))
                self._heirs.subtract((each.digest, own) for each, own in of.needs(name))
            finally:
                if outermost:
                    self._heirs.clear()
        self._tensors.move_to_end(key)
        return self._tensors[key]

    def _count_heirs(self, of: A, name: str) -> Counter[Key]:
        """How many tensors that have to be made need each of the others."""
        heirs, open_ = Counter([(of.digest, name)]), [(of, name)]
        while open_:
            candidate, wanted = open_.pop()
            for each, own in candidate.needs(wanted):
                key = (each.digest, own)
                if key not in heirs and key not in self._tensors:
                    open_.append((each, own))
                heirs[key] += 1
        return heirs

    def _keep(self, key: Key, made: Tensor) -> None:
        self._tensors[key] = made
        self._bytes += made.nbytes
        if self._bytes <= self._most_bytes:
            return
        for oldest in [*self._tensors]:
            if oldest != key and self._heirs[oldest] <= 0:
                self._bytes -= self._tensors.pop(oldest).nbytes
            if self._bytes <= self._most_bytes:
                return
