"""Crossovers of two points that know what each coordinate drives.

Whole genes change places, by the structure of what they drive: single genes (uniform crossover;
G. Syswerda, "Uniform Crossover in Genetic Algorithms", ICGA 1989), runs of layers (two-point
crossover, cut between layer groups; K. A. De Jong, "An Analysis of the Behavior of a Class of
Genetic Adaptive Systems", 1975), components of the model, sources and parameters of the operator.
Blend crossover (BLX-alpha; L. J. Eshelman, J. D. Schaffer, "Real-Coded Genetic Algorithms and
Interval-Schemata", FOGA 2, 1993) makes values that neither parent has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from evomerge.search.contract import StrategySettings

Vector: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]
Crossover: TypeAlias = Callable[[Vector, Vector, np.random.Generator], Vector]
"""From two parents to one offspring."""

ALPHA = 0.5
"""How far a blend may leave the interval between its parents, as a share of the interval: the
authors' own choice."""


def crossovers(settings: StrategySettings) -> list[Crossover]:
    """The crossovers that mean something for the genes; without genes every coordinate is a layer.

    One that could only hand over a whole parent is left out.
    """
    genes = settings.genes
    choices = np.array(settings.choices)
    found: list[Crossover] = [uniform, partial(blend, choices=choices) if choices.any() else blend]
    labels = np.unique(np.array(settings.depths), return_inverse=True)[1]
    if labels.max() > 0:
        found.append(partial(swap_run, labels))
    for parts in (
        [gene.component for gene in genes],
        [gene.source for gene in genes],
        [gene.parameter for gene in genes],
    ):
        different = list(dict.fromkeys(parts))
        if len(different) > 1:
            labels = np.array([different.index(part) for part in parts])
            found.append(partial(swap_parts, labels))
    return found


def uniform(first: Vector, second: Vector, rng: np.random.Generator) -> Vector:
    """Take each gene from either parent."""
    return np.where(rng.random(len(first)) < 0.5, first, second)


def swap_run(groups: Labels, first: Vector, second: Vector, rng: np.random.Generator) -> Vector:
    """Take a run of layer groups from the second parent, all other layers from the first.

    Args:
        groups: Layer group of each gene, from 0 to two or more.
        first: Values of the first parent.
        second: Values of the second parent.
        rng: Draws where the run begins and ends.
    """
    # Never the first group: taking all would be no crossover, and the first is as often handed
    # over by the other parent.
    start, stop = np.sort(rng.choice(np.arange(1, groups.max() + 2), 2, replace=False))
    return np.where((start <= groups) & (groups < stop), second, first)


def swap_parts(parts: Labels, first: Vector, second: Vector, rng: np.random.Generator) -> Vector:
    """Take some parts from the second parent and the others, one at least, from the first.

    Args:
        parts: The part each gene belongs to, from 0 to one or more.
        first: Values of the first parent.
        second: Values of the second parent.
        rng: Draws how many parts and which.
    """
    count = int(parts.max()) + 1
    taken = rng.permutation(count) < rng.integers(1, count)
    return np.where(taken[parts], second, first)


def blend(
    first: Vector, second: Vector, rng: np.random.Generator, *, choices: Mask | None = None
) -> Vector:
    """Draw each value between those of the parents or somewhat outside.

    Args:
        first: Values of the first parent.
        second: Values of the second parent.
        rng: Draws where between them.
        choices: Which genes have nothing between two values, and get that of either parent.
    """
    shares = rng.uniform(-ALPHA, 1 + ALPHA, len(first))
    if choices is not None:
        shares = np.where(choices, shares < 0.5, shares)
    return np.clip(first + shares * (second - first), 0.0, 1.0)
