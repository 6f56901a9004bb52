"""Random numbers that are named, so that order, sharding and worker count cannot matter.

Those of an operator are a pure function of a seed, a tensor, a source and an entry's index: they
do not depend on how a tensor is cut into blocks, on the number of threads or on what was drawn
before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from evomerge.operators.probit import probit

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 0xFFFFFFFF


class Draws(NamedTuple):
    """Random numbers of one tensor and one source.

    Attributes:
        key: Two numbers below 2^32 for the tensor, shape `(2,)`, int64.
        layer_key: The same for the layer, shared by all its tensors.
        start: Index of the first entry, of shape `()`, when the tensor is a block of a larger one.
    """

    key: Tensor
    layer_key: Tensor
    start: Tensor

    def uniform(self, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Numbers in [0, 1), one per entry, float32.

        Args:
            shape: Shape of the result; entries are numbered in row-major order.
            stream: Another number gives other, independent numbers.
        """
        count = math.prod(shape)
        if not torch.compiler.is_compiling() and (self.start >> 32) == (self.start + count) >> 32:
            return _uniform_eagerly(self.key, int(self.start), count, stream).view(shape)
        return _uniform(self.key, self.start + torch.arange(count), stream).view(shape)

    def after(self, entries: int) -> Draws:
        """The random numbers of a block that begins so many entries later."""
        return self._replace(start=self.start + entries)

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
        rows = torch.div(index, length, rounding_mode="floor")
        return _uniform(self.key, rows, stream).view(shape)

    def of_tensor(self, count: int, stream: int = 0) -> Tensor:
        """`count` numbers in [0, 1) that all blocks of the tensor share, float32."""
        return _uniform(self.key, torch.arange(count), stream)

    def of_layer(self, count: int, stream: int | Tensor = 0) -> Tensor:
        """`count` numbers in [0, 1) that all tensors of the layer share, float32."""
        return _uniform(self.layer_key, torch.arange(count), stream)


def draws(seed: int, tensor: str, layer: str, source: str) -> Draws:
    """The random numbers of a tensor and a source.

    Args:
        seed: The recipe's seed.
        tensor: The tensor's name.
        layer: What its layer is called, the same for all tensors of the layer.
        source: The source's label.
    """
    start = torch.zeros((), dtype=torch.int64)
    return Draws(_key(seed, "tensor", tensor, source), _key(seed, "layer", layer, source), start)


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator seeded by `seed` and `names`, e.g. a tensor and a source."""
    text = "\0".join((str(seed), *names))
    # torch's CPU generator keeps 32 bits of its seed, so more would be lost silently.
    number = int.from_bytes(blake3(text.encode()).digest(length=4), "little")
    return torch.Generator().manual_seed(number)


def _key(seed: int, *names: str) -> Tensor:
    digest = blake3("\0".join((str(seed), *names)).encode()).digest(length=8)
    words = (int.from_bytes(part, "little") for part in (digest[:4], digest[4:]))
    return torch.tensor([*words], dtype=torch.int64)


def _uniform(key: Tensor, index: Tensor, stream: int | Tensor) -> Tensor:
    high, low = index >> 32, index & _BITS
    hashed = _mix(_mix(low ^ key[0]) ^ key[1] ^ high ^ (stream * 0x9E3779B9 & _BITS))
    # 24 bits are what a float32 holds without rounding up to 1.
    return (hashed >> 8).to(torch.float32) * 2.0**-24


def _uniform_eagerly(key: Tensor, start: int, count: int, stream: int) -> Tensor:
    """The same numbers in a fraction of the time: torch has no arithmetic of 32 unsigned bits."""
    first, second = key.tolist()
    word = np.arange(count, dtype=np.uint32)
    word += np.uint32(start & _BITS)
    word ^= np.uint32(first)
    _mix_eagerly(word)
    word ^= np.uint32(second ^ (start >> 32) ^ (stream * 0x9E3779B9 & _BITS))
    _mix_eagerly(word)
    word >>= np.uint32(8)
    return torch.from_numpy(word.astype(np.float32)).mul_(2.0**-24)


def _mix_eagerly(word: NDArray[np.uint32]) -> None:
    word ^= word >> np.uint32(16)
    word *= np.uint32(0x21F0AAAD)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x735A2D97)
    word ^= word >> np.uint32(15)


def _mix(word: Tensor) -> Tensor:
    """Mix 32 bits held in int64 (an integer hash of Wellons, 2018); products stay below 2^63."""
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & _BITS
    word = word ^ (word >> 15)
    word = (word * 0x735A2D97) & _BITS
    return word ^ (word >> 15)
