"""What an executor is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from evomerge.evaluation.scores.outcome import Outcome, Split
    from evomerge.evaluation.scores.racing import Race
    from evomerge.recipe.merge import MergeRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A candidate to be merged and scored.

    Attributes:
        number: The candidate's number.
        recipe: Its merge recipe.
        split: The items to score it on.
        race: What it has to beat to be scored on all of them.
    """

    number: int
    recipe: MergeRecipe
    split: Split
    race: Race | None = None


class Executor(Protocol):
    """Merges and scores candidates somewhere.

    A candidate that fails gives a `Failed`; an executor raises only when none can be evaluated
    any more.
    """

    @property
    def workers(self) -> int:
        """How many candidates are worked on at a time."""

    @property
    def gpus(self) -> float:
        """GPUs of each worker: 1, a share of one, or 0."""

    def submit(self, job: Job) -> None:
        """Have a candidate evaluated as soon as a worker is free."""

    def collect(self) -> tuple[Job, Outcome]:
        """Wait for any of the submitted candidates that have not been collected yet."""

    def close(self) -> None:
        """Stop all workers."""


def evaluate(executor: Executor, jobs: Collection[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Evaluate candidates and yield each as soon as it is done, in any order."""
    for job in jobs:
        executor.submit(job)
    for _ in jobs:
        yield executor.collect()
