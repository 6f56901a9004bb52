"""How long the steps of a gene are beside those of the others, by what was measured beforehand.

A gene's steps are those of all times `(S / mean S) ** power`, where S was measured of the parts
that it drives (`prior`). Near a good merge a power of -0.5 is what curvatures ask for: there the
loss is quadratic, all steps cost alike, and the squared gradients of `fisher` stand for the
curvature (S. Amari, "Natural Gradient Works Efficiently in Learning", Neural Computation 10, 1998;
of the matrix the diagonal only). Far from it all genes have equally far to go.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.genome.genes import Gene
    from evomerge.genome.genome import Genome

FARTHEST = 10.0
"""Times the mean, or parts of it, as which anything beyond counts: what was measured is a guess at
what the scores of merges depend on, and no gene is to stand still or to leap for it."""


def step_scales(genome: Genome) -> tuple[float, ...]:
    """Factor of each gene's steps; empty if they follow nothing.

    The mean square over all genes that are numbers is 1: mutants are as far away as without.
    """
    settings, prior = genome.space.prior, genome.prior
    if settings is None or prior is None or not prior.relative or not settings.steps:
        return ()
    relative = [_relative(genome, gene) for gene in genome.genes if not gene.choices]
    found = iter(scales(relative, settings.steps))
    # Choices have no steps.
    return tuple(1.0 if gene.choices else next(found) for gene in genome.genes)


def scales(relative: Sequence[float], power: float) -> tuple[float, ...]:
    """Powers, over the root of their mean square.

    Args:
        relative: What was measured of each gene, over the mean; at least 0.
        power: Below 0 steps are short where much was measured.
    """
    powers = [min(max(each, 1 / FARTHEST), FARTHEST) ** power for each in relative]
    length = fmean(each**2 for each in powers) ** 0.5
    return tuple(each / length for each in powers)


def _relative(genome: Genome, gene: Gene) -> float:
    """What was measured of the parts and sources that a gene drives, over the mean; their mean."""
    relative = genome.prior.relative if genome.prior else ()
    sources = relative if gene.source is None else (relative[gene.source],)
    parts = gene.drives(list(dict(genome.rules)))
    # What lies outside the layers is measured nowhere.
    return fmean(source.get(part, 1.0) for source in sources for part in parts)
