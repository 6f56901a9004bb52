"""The ridge regression of one linear layer on the features of several sources.

FeatCal, 2026, https://arxiv.org/abs/2605.13030, as its released solver computes it. Everything is
in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8
"""Keeps the equations solvable where no text says anything."""


class Moments:
    """Sums over the tokens of one source's texts.

    Args:
        width: Number of the layer's inputs.
        device: Where they are.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.own = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.shared = torch.zeros_like(self.own)
        self._inputs = torch.zeros(2, width, dtype=torch.float64, device=device)
        self._tokens = 0

    def add(self, merged: Tensor, source: Tensor) -> None:
        """Add what the layer reads in the merge and in the source, each `(tokens, in)`."""
        self.own += (merged.T @ merged).double()
        self.shared += (merged.T @ source).double()
        self._inputs[0] += merged.double().sum(dim=0)
        self._inputs[1] += source.double().sum(dim=0)
        self._tokens += len(merged)

    def means(self) -> Tensor:
        """Mean inputs in the merge and in the source, shape `(2, in)`."""
        return self._inputs / max(1, self._tokens)


class Regression:
    """Gathers what all sources ask of a layer, and solves it.

    Args:
        inputs: Number of the layer's inputs.
        outputs: Number of its outputs.
        device: Where the sums are.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self._left = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self._right = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self._share = 0.0
        self._mean = torch.zeros(inputs, dtype=torch.float64, device=device)
        self._target = torch.zeros(outputs, dtype=torch.float64, device=device)

    def add(self, moments: Moments, weight: Tensor, bias: Tensor | None) -> None:
        """Ask for a source's outputs, which count alike whatever the number of its tokens.

        Args:
            moments: Of the source's texts.
            weight: The source's, shape `(out, in)`.
            bias: The source's, shape `(out,)`, if it has one.
        """
        norm = float(moments.own.norm()) or 1.0
        merged, source = moments.means()
        self._left += moments.own / norm
        self._right += moments.shared @ weight.double().T / norm
        self._share += 1 / norm
        self._mean += merged / norm
        if bias is not None:
            self._target += (bias.double() + weight.double() @ source) / norm

    def weight(self, anchor: Tensor, ridge: float) -> Tensor:
        """The weight, pulled towards an anchor, both of shape `(out, in)`."""
        identity = torch.eye(len(self._left), dtype=torch.float64, device=self._left.device)
        left = self._left + (ridge + TINY) * identity
        solved: Tensor = torch.linalg.solve(left, self._right + ridge * anchor.T)
        return solved.T.contiguous()

    def bias(self, weight: Tensor, anchor: Tensor, ridge: float) -> Tensor:
        """The bias beside a weight, pulled towards an anchor, both of shape `(out,)`."""
        missing = self._target - weight @ self._mean
        return (missing + ridge * anchor) / (self._share + ridge)
