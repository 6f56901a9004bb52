"""Random numbers that are named, so that order, sharding and worker count cannot matter.

Those of an operator are a pure function of a seed, a tensor, a source and an entry's index: they
do not depend on how a tensor is cut into blocks, on the number of threads or on what was drawn
before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from evomerge.operators.probit import probit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BITS = 0xFFFFFFFF

_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97
"""Factors of the hash."""

_RUN = 1 << 15
"""Words that are made at a time, so that they stay in the cache."""

_COARSE = 0x2545F491
"""The stream of coarse numbers, apart from those of fine ones."""


class Draws(NamedTuple):
    """Random numbers of one tensor and one source.

    Words of 32 bits are those of a sequence with a step of its own, hashed (Wellons, "Prospecting
    for hash functions", 2018, with the constants of his later search). The n-th is known without
    the others, and compiled loops make many at a time. They repeat after 2^32 words.

    Attributes:
        key: Where the sequence of the tensor starts and its step, shape `(2,)`, int64.
        layer_key: The same for the layer, shared by all its tensors.
        start: Index of the first entry, of shape `()`, when the tensor is a block of a larger one.
        coarse_place: Where the sequence of coarse numbers is at the first entry, its step, and
            whether the entry has the high half of a word, shape `(3,)`, int32. A compiled loop
            would work it out again for every few entries.
    """

    key: Tensor
    layer_key: Tensor
    start: Tensor
    coarse_place: Tensor

    def uniform(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Numbers in [0, 1), one per entry, float32, multiples of 2^-24.

        Args:
            shape: Shape of the result; entries are numbered in row-major order.
            stream: Another number gives other, independent numbers.
        """
        count = math.prod(shape)
        if torch.compiler.is_compiling():
            index = torch.arange(count, dtype=torch.int32)
            return _fraction(_words(self.key, self.start, index, stream)).view(shape)
        words = _words_eagerly(self.key, int(self.start), count, stream)
        words >>= np.uint32(8)
        return torch.from_numpy(words.astype(np.float32)).mul_(2.0**-24).view(shape)

    def coarse(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers as `uniform` gives them, but others and multiples of 2^-16."""
        count = math.prod(shape)
        if torch.compiler.is_compiling():
            halves = self._halves(count)
        else:
            # Not all numbers of 16 bits are a kind that torch calculates with.
            halves = torch.from_numpy(self._halves_eagerly(count).astype(np.float32))
        return (halves.to(torch.float32) * 2.0**-16).view(shape)

    def kept(self, shape: tuple[int, ...], chance: float | Tensor) -> Tensor:
        """1 where `coarse` is less than a chance that all entries have, else 0; float32.

        Args:
            shape: Shape of the result.
            chance: A number, or a tensor of shape `()`.
        """
        count = math.prod(shape)
        # Whole numbers are compared several times faster than those made of them.
        if torch.compiler.is_compiling():
            bound = torch.ceil(torch.as_tensor(chance) * 2.0**16).to(torch.int32)
            return (self._halves(count) < bound).to(torch.float32).view(shape)
        last = math.ceil(float(chance) * 2**16) - 1
        flags = self._halves_eagerly(count) <= np.int32(last)
        return torch.from_numpy(flags.view(np.uint8)).to(torch.float32).view(shape)

    def _halves(self, count: int) -> Tensor:
        """Halves of words, low bits first, one per entry, int32."""
        place, step, odd = self.coarse_place.unbind()
        index = odd + torch.arange(count, dtype=torch.int32)
        return _hash(place + (index >> 1) * step) >> ((index & 1) << 4) & 0xFFFF

    def _halves_eagerly(self, count: int) -> NDArray[np.uint16]:
        first, odd = divmod(int(self.start), 2)
        words = _words_eagerly(self.key, first, (odd + count + 1) // 2, _COARSE)
        return words.astype("<u4", copy=False).view(np.uint16)[odd : odd + count]

    def after(self, entries: int) -> Draws:
        """The random numbers of a block that begins so many entries later."""
        return _draws(self.key, self.layer_key, int(self.start) + entries)

    def normal(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Standard normal numbers, one per entry, float32: those of `uniform`, transformed."""
        return probit(self.uniform(shape, stream))

    def of_rows(self, shape: tuple[int, ...], length: Tensor, stream: int = 0) -> Tensor:
        """Numbers in [0, 1) that the entries of a row share, float32.

        Args:
            shape: Shape of the result.
            length: Entries of a row, shape `()`, int64.
            stream: Another number gives other, independent numbers.
        """
        index = self.start + torch.arange(math.prod(shape))
        rows = torch.div(index, length, rounding_mode="floor").to(torch.int32)
        return _fraction(_words(self.key, 0, rows, stream)).view(shape)

    def of_tensor(self, count: int, stream: int = 0) -> Tensor:
        """`count` numbers in [0, 1) that all blocks of the tensor share, float32."""
        return _shared(self.key, count, stream)

    def of_layer(self, count: int, stream: int | Tensor = 0) -> Tensor:
        """`count` numbers in [0, 1) that all tensors of the layer share, float32."""
        return _shared(self.layer_key, count, stream)


def draws(seed: int, tensor: str, layer: str, source: str) -> Draws:
    """The random numbers of a tensor and a source.

    Args:
        seed: The recipe's seed.
        tensor: The tensor's name.
        layer: What its layer is called, the same for all tensors of the layer.
        source: The source's label.
    """
    own, shared = _key(seed, "tensor", tensor, source), _key(seed, "layer", layer, source)
    return _draws(own, shared, 0)


def _draws(key: Tensor, layer_key: Tensor, start: int) -> Draws:
    place, step = (_signed(word) for word in _sequence(key.tolist(), start >> 1, _COARSE))
    coarse_place = torch.tensor([place, step, start & 1], dtype=torch.int32)
    return Draws(key, layer_key, torch.tensor(start), coarse_place)


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator seeded by `seed` and `names`, e.g. a tensor and a source."""
    text = "\0".join((str(seed), *names))
    # torch's CPU generator keeps 32 bits of its seed, so more would be lost silently.
    number = int.from_bytes(blake3(text.encode()).digest(length=4), "little")
    return torch.Generator().manual_seed(number)


def _key(seed: int, *names: str) -> Tensor:
    digest = blake3("\0".join((str(seed), *names)).encode()).digest(length=8)
    start, step = (int.from_bytes(part, "little") for part in (digest[:4], digest[4:]))
    return torch.tensor([start, step | 1], dtype=torch.int64)


def _shared(key: Tensor, count: int, stream: int | Tensor) -> Tensor:
    return _fraction(_words(key, 0, torch.arange(count, dtype=torch.int32), stream))


def _fraction(words: Tensor) -> Tensor:
    # 24 bits are what a float32 holds without rounding up to 1.
    return (words >> 8 & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _words(key: Tensor, start: Tensor | int, index: Tensor, stream: int | Tensor) -> Tensor:
    """The words so many places, int32, after a start; int32 too."""
    place, step = _sequence(key.unbind(), start, stream)
    return _hash(_signed(place).to(torch.int32) + index * _signed(step).to(torch.int32))


def _hash(word: Tensor) -> Tensor:
    """What is lost of int32 products are their high bits."""
    word = (word ^ (word >> 16 & 0xFFFF)) * _FIRST
    word = (word ^ (word >> 15 & 0x1FFFF)) * _SECOND
    return word ^ (word >> 15 & 0x1FFFF)


def _sequence(key: Sequence[Any], start: Any, stream: Any) -> tuple[Any, Any]:
    """Where the sequence of a key and a stream is at a start, and its step; numbers of 32 bits.

    All are integers, or all are tensors of them.
    """
    step = (key[1] * (2 * stream + 1)) & _BITS  # odd, so that no place comes twice
    return (key[0] + stream + (start & _BITS) * step) & _BITS, step


def _signed(word: Any) -> Any:
    """The signed number of the same 32 bits."""
    return word - ((word >> 31) << 32)


def _words_eagerly(key: Tensor, start: int, count: int, stream: int) -> NDArray[np.uint32]:
    """The same words in a fraction of the time: torch has no arithmetic of unsigned words."""
    place, step = _sequence(key.tolist(), start, stream)
    steps, other = np.arange(min(_RUN, count), dtype=np.uint32), np.empty(_RUN, dtype=np.uint32)
    steps *= np.uint32(step)
    words = np.empty(count, dtype=np.uint32)
    for begin in range(0, count, _RUN):
        word = words[begin : begin + _RUN]
        shifted = other[: word.size]
        np.add(steps[: word.size], np.uint32((place + begin * step) & _BITS), out=word)
        for bits, factor in ((16, _FIRST), (15, _SECOND)):
            word ^= np.right_shift(word, np.uint32(bits), out=shifted)
            word *= np.uint32(factor)
        word ^= np.right_shift(word, np.uint32(15), out=shifted)
    return words
