"""Merge methods as their papers and their authors' codes have them, one entry at a time.

Lists in, lists out, no torch: slow, and easy to compare with the formulas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Vector = Sequence[float]


def ties(deltas: Sequence[Vector], density: Vector, scale: float, merge: str) -> list[float]:
    """TIES of whole models (Yadav et al., 2023), each a flat list, in the authors' code.

    A draw of the votes takes the sign that most entries elected, plus if there is none.
    """
    size = len(deltas[0])
    trimmed = [_keep_largest(delta, own) for delta, own in zip(deltas, density, strict=True)]
    sums = [sum(delta[k] for delta in trimmed) for k in range(size)]
    majority = 1 if sum(_sign(each) for each in sums) >= 0 else -1
    merged = []
    for k in range(size):
        elected = _sign(sums[k]) or majority
        agreeing = [delta[k] for delta in trimmed if _sign(delta[k]) == elected]
        value = 0.0
        if agreeing and merge == "mean":
            value = sum(agreeing) / len(agreeing)
        elif agreeing and merge == "sum":
            value = sum(agreeing)
        elif agreeing:
            value = max(agreeing, key=abs)
        merged.append(scale * value)
    return merged


def _keep_largest(delta: Vector, density: float) -> list[float]:
    dropped = len(delta) - int(len(delta) * density)
    if dropped == 0 or density == 0:
        return [value if density else 0.0 for value in delta]
    # The last entry meant to be dropped sets the threshold and so is kept, too.
    least = sorted(abs(value) for value in delta)[dropped - 1]
    return [value if abs(value) >= least else 0.0 for value in delta]


def dare(
    deltas: Sequence[Vector],
    chances: Sequence[Vector],
    weight: Vector,
    density: Vector,
    scale: float,
) -> list[float]:
    """DARE (Yu et al., 2024) and a weighted sum; an entry is kept if its chance is below."""
    merged = [0.0] * len(deltas[0])
    for delta, drawn, w, p in zip(deltas, chances, weight, density, strict=True):
        for k, value in enumerate(delta):
            if drawn[k] < p:
                merged[k] += scale * w * value / p
    return merged


def della(
    deltas: Sequence[Sequence[Vector]],
    chances: Sequence[Sequence[Vector]],
    weight: Vector,
    density: Vector,
    epsilon: Vector,
    scale: float,
) -> list[list[float]]:
    """DELLA (Deep et al., 2024) of matrices, as lists of rows, and the weighted disjoint mean."""
    pruned = [
        [
            _prune_row(row, drawn, density[source], epsilon[source])
            for row, drawn in zip(deltas[source], chances[source], strict=True)
        ]
        for source in range(len(deltas))
    ]
    merged = []
    for i, row in enumerate(deltas[0]):
        merged.append([])
        for j in range(len(row)):
            votes = [w * delta[i][j] for w, delta in zip(weight, pruned, strict=True)]
            elected = 1 if sum(votes) >= 0 else -1
            agreeing = [(w, v) for w, v in zip(weight, votes, strict=True) if _sign(v) == elected]
            total = sum(w for w, _ in agreeing)
            merged[i].append(scale * sum(v for _, v in agreeing) / (total or 1))
    return merged


def _prune_row(row: Vector, drawn: Vector, density: float, epsilon: float) -> list[float]:
    rising = sorted(range(len(row)), key=lambda k: abs(row[k]))
    pruned = [0.0] * len(row)
    for rank, k in enumerate(rising):
        share = rank / (len(row) - 1) if len(row) > 1 else 0.5
        keep = density - epsilon + 2 * epsilon * share
        if drawn[k] < keep:
            pruned[k] = row[k] / keep
    return pruned


def pcb(
    deltas: Sequence[Vector], weight: Vector, ratio: float, quantile: float, balancing: str
) -> list[float] | None:
    """PCB-Merging (Du et al., 2024) of whole models, each a flat list, in the authors' code.

    None where that divides by nothing, or by so little that rounding decides.
    """
    sources, size = range(len(deltas)), len(deltas[0])
    clamped, normal = [], []
    for delta in deltas:
        order = sorted(abs(value) for value in delta)
        low, high = order[int(size * quantile)], order[int(size * (1 - quantile) - 1)]
        if high - low < 1e-3:
            return None
        sizes = [min(max(abs(value), low), high) for value in delta]
        clamped.append([_sign(v) * s for v, s in zip(delta, sizes, strict=True)])
        normal.append([(each - low) / (high - low) for each in sizes])
    scales = []
    for i in sources:
        scores = []
        for k in range(size):
            intra = math.exp(len(deltas) * normal[i][k] ** 2)
            if balancing == "sum":
                inter = math.tanh(deltas[i][k] * sum(deltas[j][k] for j in sources))
            elif balancing == "normalized":
                others = (_sign(deltas[j][k]) * normal[j][k] for j in sources)
                inter = math.tanh(deltas[i][k] * sum(others))
            else:
                inter = sum(math.tanh(clamped[i][k] * clamped[j][k]) for j in sources)
            scores.append(intra * inter)
        least = sorted(scores)[min(size - 1, int(size * (1 - ratio)))]
        span = max(scores) - least
        if span < 1e-3:
            return None
        scales.append([(max(score, least) - least) / span for score in scores])
    merged = []
    for k in range(size):
        total = sum(scale[k] for scale in scales)
        if 0 < total < 1e-6:
            return None
        parts = (weight[i] * clamped[i][k] * scales[i][k] for i in sources)
        merged.append(sum(parts) / max(total, 1e-12))
    return merged


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
