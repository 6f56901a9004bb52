"""Keys and values of tokens that a model has read, for others to attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOM = 32
"""Tokens that may be appended before what is kept has to be moved."""

Kept = tuple[Tensor, Tensor]
"""Keys and values of one layer, shape `(rows, heads, length, size)`."""


class Keys:
    """What the layers of a model keep of some rows, which all end at the same place.

    Attributes:
        cache: The same as a cache of transformers; a pass that is given it appends to it.
    """

    def __init__(self, layers: Sequence[_Layer] = ()) -> None:
        self.cache: Any = (
            Cache(layers=list(layers)) if layers else Cache(layer_class_to_replicate=_Layer)
        )

    @property
    def length(self) -> int:
        """Number of tokens of a row, what lies on its left without being part of it included."""
        return int(self.cache.get_seq_length())

    def repeated(self, rows: int) -> Keys:
        """The only row, as often as that; what is appended to it is not seen here."""
        return Keys(
            [
                _Layer(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
                for layer in self.cache.layers
            ]
        )

    def only(self, rows: Tensor, length: int) -> Keys:
        """Some rows, and of these the last tokens."""
        return Keys(
            [
                _Layer.with_room([(layer.keys[rows], layer.values[rows])], length)
                for layer in self.cache.layers
            ]
        )

    def beside(self, other: Keys) -> Keys:
        """The rows of both; the shorter ones begin later."""
        length = max(self.length, other.length)
        return Keys(
            [
                _Layer.with_room([(a.keys, a.values), (b.keys, b.values)], length)
                for a, b in zip(self.cache.layers, other.cache.layers, strict=True)
            ]
        )


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer of a cache that grows in place, where transformers' own moves at every token."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self._room: Kept | None = None
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    @classmethod
    def with_room(cls, parts: Sequence[Kept], length: int) -> _Layer:
        """Rows one below the other, each of its last `length` tokens; 0 where it has fewer."""
        room = _joined([keys for keys, _ in parts], length), _joined([v for _, v in parts], length)
        layer = cls(room[0][:, :, :length], room[1][:, :, :length])
        layer._room = room
        return layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        length = self.keys.shape[2]
        end = length + key_states.shape[2]
        if self._room is None or self._room[0].shape[2] < end:
            self._room = _joined([self.keys], length, end), _joined([self.values], length, end)
        keys, values = self._room
        keys[:, :, length:end], values[:, :, length:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _joined(parts: Sequence[Tensor], length: int, end: int = 0) -> Tensor:
    rows = sum(len(part) for part in parts)
    _, heads, _, size = parts[0].shape
    room = parts[0].new_zeros(rows, heads, max(length, end) + ROOM, size)
    first = 0
    for part in parts:
        kept = part[:, :, -length:]
        room[first : first + len(part), :, length - kept.shape[2] : length] = kept
        first += len(part)
    return room
