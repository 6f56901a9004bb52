"""Natural niches: candidates compete for items, and mate with those that solve what they do not.

Abrantes, Lange and Tang, "Competition and Attraction Improve Model Fusion", 2025,
https://arxiv.org/abs/2508.16204 (M2N2).

Where the paper merges two models, `M2N2` interpolates two points; `M2N2Slerp` (`niche_models.py`)
merges models. For operators that are linear in their coefficients that is the linear merge of the
two models; the paper's merge is spherical. Its split point lies anywhere among the weights, ours
between two layer groups, so that each group is an interpolation of the parents' groups.

The paper mutates no language model. Here interpolation alone would never leave the box that the
archive spans, and a small mutation found better merges on every landscape that we tried
(benchmarks/LOG.md).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Array = NDArray[np.float64]

ARCHIVE = 15
"""Members of the archive: the paper's number for language models."""

WARM_UP = ARCHIVE
"""First points, drawn at random."""

MUTATION = 0.05
"""Standard deviation of what is added to each coordinate of a child."""


Member = TypeVar("Member")


class Niches(Generic[Member]):
    """An archive whose members compete for items.

    Every item counts the same, whatever the weight of its task. Candidates that were stopped in a
    race compete with the scores that `item_scores` expects of them: without them too few enter the
    archive, and a search ends up worse than without racing (benchmarks/LOG.md).

    Attributes:
        members: The members, the oldest first.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._results: list[Result] = []

    def __len__(self) -> int:
        return len(self.members)

    def add(self, member: Member, result: Result) -> None:
        """Take a member in, unless it failed; of too many the weakest leaves."""
        if result.scores:
            self.members.append(member)
            self._results.append(result)
        if len(self.members) > ARCHIVE:
            # Of equals the oldest leaves, so that the archive keeps moving on a plateau.
            weakest = int(shared_fitness(self.solved()).argmin())
            del self.members[weakest], self._results[weakest]

    def solved(self) -> Array:
        """How far each member solves each item."""
        return degrees(item_scores(self._results))

    def parents(self, solved: Array, rng: np.random.Generator) -> tuple[Member, Member]:
        """One drawn by shared fitness, and one by its attraction to that."""
        first = _draw(shared_fitness(solved), rng)
        second = _draw(attraction(solved, first), rng)
        return self.members[first], self.members[second]


class M2N2:
    """Fitness sharing by item, attraction, and crossover with a split point in depth."""

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._depths = np.unique(settings.depths, return_inverse=True)[1]
        self._asked: deque[Point] = deque()
        self._warm_up = WARM_UP
        self._archive: Niches[Point] = Niches()

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        solved = self._archive.solved()
        points = [self._propose(solved) for _ in range(count)]
        self._asked += points
        return points

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            self._archive.add(self._asked.popleft(), result)

    def _propose(self, solved: Array) -> Point:
        if self._warm_up > 0 or len(self._archive) < 2:
            self._warm_up -= 1
            return tuple(self._rng.random(len(self._depths)).tolist())
        first, second = self._archive.parents(solved, self._rng)
        child = crossover(
            np.array(first),
            np.array(second),
            way=self._rng.random(),
            # A model that is one group has no depth to be split at.
            before=self._depths < self._rng.integers(1, max(self._depths.max(), 1) + 1),
        )
        mutant = child + self._rng.normal(0.0, MUTATION, len(child))
        return tuple(np.clip(mutant, 0.0, 1.0).tolist())


def item_scores(results: Sequence[Result]) -> Array:
    """The score of each member on each item, as far as it is known.

    A member that was stopped in a race has an estimate of its tasks' scores only: it is taken to
    score as the others do on average, higher on every item by what its mean over tasks is higher.

    Args:
        results: What became of P members; none failed.

    Returns:
        Shape `(P, J)`, members by items; by tasks while all were stopped.
    """
    whole = [result for result in results if result.items]
    if not whole:
        return np.array([result.scores for result in results], dtype=np.float64)
    items = np.array([result.items for result in whole], dtype=np.float64)
    usual, usual_score = items.mean(axis=0), np.mean([result.scores for result in whole])
    low, high = np.minimum(items.min(axis=0), 0.0), np.maximum(items.max(axis=0), 1.0)
    return np.array(
        [
            result.items or np.clip(usual + (np.mean(result.scores) - usual_score), low, high)
            for result in results
        ]
    )


def degrees(scores: Array) -> Array:
    """How far each member solves each item, in [0, 1], from its scores, both of shape `(P, J)`.

    Scores in [0, 1] are degrees already. Where an item has others, such as likelihoods, its worst
    member solves it to degree 0 and its best to 1.
    """
    if scores.size == 0:
        return scores
    low, high = scores.min(axis=0), scores.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.where((low < 0) | (high > 1), (scores - low) / span, scores)


def shared_fitness(solved: Array, alpha: float = 1.0) -> Array:
    """What each member gets when all who solve an item share it.

    Args:
        solved: How far each member solves each item, in [0, 1], shape `(P, J)`.
        alpha: How much a crowd costs: 1 divides an item among all who solve it, 0 gives all of it
            to each.

    Returns:
        Shape `(P,)`. With alpha 1 the sum is that of the best degrees to which items are solved.
    """
    fitness: Array = solved @ _each_share(solved, alpha)
    return fitness


def attraction(solved: Array, parent: int) -> Array:
    """How attractive each member is to one of them: what it solves better, and few others do.

    Args:
        solved: How far each member solves each item, in [0, 1], shape `(P, J)`.
        parent: Index of the member that looks for a mate.

    Returns:
        Shape `(P,)`; 0 for the parent itself.
    """
    gains: Array = np.maximum(solved - solved[parent], 0.0) @ _each_share(solved, 1.0)
    return gains


def crossover(first: Array, second: Array, *, way: float, before: NDArray[np.bool_]) -> Array:
    """The points `way` of the way from first to second before the split, `1 - way` after it."""
    return first + np.where(before, way, 1.0 - way) * (second - first)


def _each_share(solved: Array, alpha: float) -> Array:
    """An item's capacity, the best degree to which it is solved, over the crowd that solves it."""
    capacity, crowd = solved.max(axis=0), solved.sum(axis=0)
    # Nobody gets anything of an item that nobody solves.
    share: Array = np.divide(capacity, crowd**alpha, out=np.zeros_like(crowd), where=crowd > 0)
    return share


def _draw(weights: Array, rng: np.random.Generator) -> int:
    """An index, drawn in proportion to the weights; any if they are all zero."""
    total = weights.sum()
    shares = weights / total if total > 0 else None
    return int(rng.choice(len(weights), p=shares))
