"""What a search strategy is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.genome.genes import Gene

Point = tuple[float, ...]
"""A point of the unit cube."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of a point.

    Attributes:
        fitness: The number that the search maximises; None if the point failed.
        scores: Score on each task, higher is better; empty if it failed.
        items: Score on each item of all tasks, higher is better; empty if it failed or was not
            scored on all of them.
    """

    fitness: float | None
    scores: tuple[float, ...] = ()
    items: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Breeding:
    """A model that is merged from individuals, whatever the genes of the search are.

    Attributes:
        operator: Name of the merge operator.
        parents: What it merges: individuals by their numbers, or what is bred for this one only.
            The sources come first, then whatever the strategy asked for, in order of asking.
        parameters: Parameters of the operator.
        seed: Seeds the operator.
        measured_as: For operators that measure what they merge: a source for each parent that is
            measured in its place.
    """

    operator: str
    parents: tuple[int | Breeding, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    measured_as: tuple[int, ...] = ()


Proposal = Point | Breeding | int
"""What a strategy asks for; a number is an individual that exists, to hear what it scored."""


class Finished(Exception):  # noqa: N818 (it is no error)
    """Raised by a strategy that has nothing left to propose; its text says why."""


class Strategy(Protocol):
    """Proposes points and learns from what became of them.

    A strategy is a deterministic function of its settings and of the calls made to it: the same
    asks and tells give the same points again. That is what makes a run resumable from its store
    alone, so a strategy never reads a clock, a file or a global random generator.
    """

    def ask(self, count: int) -> Sequence[Proposal]:
        """Propose points; others may not have been told yet.

        It may propose fewer than `count`, and none while it waits for others to be told.

        Raises:
            Finished: It has nothing left to propose, whatever it will be told.
        """

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategySettings:
    """What every strategy is built from.

    Attributes:
        dimension: Number of coordinates.
        genes: What each coordinate drives; empty if that is not known.
        sources: Number of sources.
        generation: Points asked at a time.
        seed: Seeds its random numbers.
        step: Real standard deviation of the first points, as a fraction of the range; None for
            the strategy's own choice.
        centre: Where the first points lie around; None for the middle of the cube.
        candidates: How many candidates were planned when the search began, the starting ones
            included.
        starting: How many of them are starting ones, which no strategy proposes.
        objectives: Number of tasks, each of which may be an objective.
        gram: Inner products of the sources' task vectors, shape `(sources, sources)`; None for
            strategies that do not need them.
        scales: Factor of each coordinate's mutations, for the strategies that know them; empty if
            nothing is known that tells coordinates apart.
    """

    dimension: int
    generation: int
    seed: int
    step: float | None = None
    genes: tuple[Gene, ...] = ()
    sources: int = 2
    centre: Point | None = None
    candidates: int = 200
    starting: int = 0
    objectives: int = 1
    gram: tuple[tuple[float, ...], ...] | None = None
    scales: tuple[float, ...] = ()

    @property
    def proposals(self) -> int:
        """How many proposals were planned."""
        return self.candidates - self.starting

    @property
    def depths(self) -> Sequence[int]:
        """Layer group of each coordinate, -1 of those that are for all layers.

        If nothing is known of genes, every coordinate is a layer.
        """
        groups = [-1 if gene.group is None else gene.group for gene in self.genes]
        return groups or range(self.dimension)

    @property
    def choices(self) -> Sequence[bool]:
        """Which coordinates choose among things in no order: a step says nothing there."""
        return [bool(gene.choices) for gene in self.genes] or [False] * self.dimension
