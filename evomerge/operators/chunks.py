"""Tensors a piece at a time, so that first passes need no room for a whole task vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

CHUNK = 1 << 17
"""Entries of a piece: few enough for the cache, enough to be worth a call."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The entries of one source's tensor, made from what is stored when they are asked for.

    Attributes:
        source: The source's tensor, of any shape and dtype.
        base: What is taken away from it, of the same shape; None for nothing.
        dtype: The dtype of the pieces.
    """

    source: Tensor
    base: Tensor | None
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Chunks:
        """The pieces of a tensor that is there already."""
        return cls(tensor, None, tensor.dtype)

    def cuts(self, size: int = CHUNK) -> list[slice]:
        """Where the pieces of so many entries lie."""
        return [slice(start, start + size) for start in range(0, self.entries, size)]

    def pieces(self, size: int = CHUNK) -> Iterator[Tensor]:
        """The entries, flat, so many at a time."""
        return map(self.take, self.cuts(size))

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self.source.numel()

    def take(self, where: slice) -> Tensor:
        """Some entries, counted in row-major order, flat; a copy."""
        part = self.source.reshape(-1)[where].to(self.dtype, copy=True)
        return (
            part if self.base is None else part.sub_(self.base.reshape(-1)[where].to(self.dtype))
        )

    def whole(self) -> Tensor:
        """All entries, in the tensor's shape; a copy."""
        return self.take(slice(None)).view(self.source.shape)
