"""Sums over the entries of task vectors, from which norms, kinship and conflict follow.

They add up: those of a model are the sum of those of its tensors, so one pass over the weights
gives every level. Kinship: Hu et al. 2024, https://arxiv.org/abs/2410.12613, sec. 3, but the
cosine keeps its sign.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaMoments:
    """Sums over entries of M task vectors; float64, and `(M, M)` unless another shape is given.

    Attributes:
        entries: How many entries, shape `()`.
        base_square: Sum of the base model's squares, shape `()`.
        sums: Sum of each task vector, shape `(M,)`.
        changed: How many entries each changes, shape `(M,)`.
        products: Sums of `a b` for two task vectors.
        sizes: Sums of `|a b|`.
        agreements: Entries that both move in one direction, less those that they move apart.
        shared: Entries that both change.
        differing: In how many parts of the sum the two differ.
    """

    entries: Tensor
    base_square: Tensor
    sums: Tensor
    changed: Tensor
    products: Tensor
    sizes: Tensor
    agreements: Tensor
    shared: Tensor
    differing: Tensor

    @property
    def norms(self) -> Tensor:
        """Euclidean norm of each task vector, shape `(M,)`."""
        return self.products.diagonal().sqrt()

    @property
    def relative_norms(self) -> Tensor:
        """The norms as fractions of the base model's norm, shape `(M,)`; 0 for a base of zeros."""
        return _ratio(self.norms, self.base_square.sqrt())

    @property
    def cosine(self) -> Tensor:
        """Signed cosine of each pair, `(M, M)`; 0 beside a task vector of zeros."""
        return _normalised(self.products)

    @property
    def distinctness(self) -> Tensor:
        """1 less the mean cosine with the others, shape `(M,)`; there must be two at least.

        From 0, the same direction as all others, to 2; 1 is unrelated to them.
        """
        others = self.cosine.fill_diagonal_(0.0).sum(dim=1) / (len(self.cosine) - 1)
        return (1.0 - others).clamp(min=0)

    @property
    def pearson(self) -> Tensor:
        """Correlation of each pair, `(M, M)`; 0 beside a constant task vector."""
        return _normalised(self.products - torch.outer(self.sums, self.sums) / self.entries)

    @property
    def euclid(self) -> Tensor:
        """Euclidean distance of each pair, `(M, M)`."""
        squares = self.products.diagonal()
        distances = (squares[:, None] + squares[None] - 2 * self.products).clamp(min=0).sqrt()
        # Rounding must not tell equal models apart.
        return torch.where(self.differing > 0, distances, 0.0)

    @property
    def conflict(self) -> Tensor:
        """Of the entries that both change, the share they move apart, `(M, M)`; 0 if none."""
        return _ratio(self.shared - self.agreements, 2 * self.shared)

    @property
    def weighted_conflict(self) -> Tensor:
        """The same share with each entry counting as much as `|a b|`, `(M, M)`."""
        return _ratio(self.sizes - self.products, 2 * self.sizes).clamp(0, 1)


def add_up(moments: Iterable[DeltaMoments]) -> DeltaMoments:
    """The moments of parts together; there must be at least one part."""
    parts = list(moments)
    return DeltaMoments(
        **{
            field.name: torch.stack([getattr(part, field.name) for part in parts]).sum(dim=0)
            for field in fields(DeltaMoments)
        }
    )


def measure_deltas(base: Tensor, deltas: Tensor) -> DeltaMoments:
    """The moments of some entries.

    Args:
        base: The base model's entries, shape `(P,)`, float64.
        deltas: The task vectors' entries, shape `(M, P)`, float64.
    """
    signs, sizes = deltas.sign(), deltas.abs()
    changed = signs.abs()
    return DeltaMoments(
        entries=torch.tensor(float(base.numel()), dtype=torch.float64),
        base_square=base.dot(base),
        sums=deltas.sum(dim=1),
        changed=changed.sum(dim=1),
        products=deltas @ deltas.T,
        sizes=sizes @ sizes.T,
        agreements=signs @ signs.T,
        shared=changed @ changed.T,
        differing=torch.tensor(
            [[0.0 if torch.equal(one, other) else 1.0 for one in deltas] for other in deltas],
            dtype=torch.float64,
        ),
    )


def _normalised(products: Tensor) -> Tensor:
    norms = products.diagonal().clamp(min=0).sqrt()
    return _ratio(products, torch.outer(norms, norms)).clamp(-1, 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)
