"""The search loop: the one place where strategy, executor and store meet.

Resuming is running the loop again over what the store holds: the strategy is asked and told as it
was before, and only what is missing is evaluated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.outcome import Evaluated, Failed, Outcome, Split
from evomerge.executors.contract import Executor, Job
from evomerge.genome.baselines import starting_candidates
from evomerge.recipe.digest import canonical_json, digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.incumbents import race_against
from evomerge.search.contract import Result
from evomerge.store.records import Candidate, Entry, scores_of_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from evomerge.evaluation.objective import Objective
    from evomerge.evaluation.racing import Race
    from evomerge.genome.genome import Genome
    from evomerge.recipe.search import Racing
    from evomerge.search.contract import Point, Strategy
    from evomerge.store.database import RunStore

FRUITLESS_GENERATIONS = 2
"""After so many generations in a row without a single valid candidate a search gives up."""


class Progress(Protocol):
    """Is told what happens during a search."""

    def evaluated(self, entry: Entry, total: int) -> None:
        """A candidate's outcome was stored; `total` candidates are wanted in all."""

    def known(self, entries: Sequence[Entry]) -> None:
        """These candidates were asked for before this process started."""

    def compared(self, done: int, total: int) -> None:
        """So many of the finalists have been scored on held-out items."""


class SearchLoop:
    """Asks a strategy for candidates, has them evaluated, stores and tells their outcomes.

    Args:
        genome: Turns points into recipes.
        strategy: Proposes points.
        objective: Turns scores into fitness.
        executor: Evaluates candidates.
        store: Keeps every ask and every outcome.
        progress: Is told about every outcome.
        racing: When candidates are stopped; None for never.
    """

    def __init__(
        self,
        *,
        genome: Genome,
        strategy: Strategy,
        objective: Objective,
        executor: Executor,
        store: RunStore,
        progress: Progress,
        racing: Racing | None = None,
    ) -> None:
        self._racing = racing
        self._genome, self._strategy, self._objective = genome, strategy, objective
        self._executor, self._store, self._progress = executor, store, progress
        # Those below 0 were made at the end of a search and are no part of its course.
        self._entries: dict[int, Entry] = {
            e.candidate.number: e for e in store.entries() if e.candidate.number >= 0
        }
        self._total = 0
        progress.known(list(self._entries.values()))

    def run(self, candidates: int, generation_size: int) -> None:
        """Search until `candidates` have been evaluated, the starting ones included.

        Raises:
            NoCandidateError: Nothing but failures, generation after generation.
            RunError: The strategy does not repeat what the store says it did.
        """
        starting = self._starting_candidates()
        self._total = max(candidates, len(starting))
        self._evaluate(self._agreed(starting))
        fruitless, generation, asked = 0, 1, len(starting)
        while asked < self._total:
            points = self._strategy.ask(min(generation_size, self._total - asked))
            offspring = self._agreed(self._offspring(points, generation, asked))
            self._evaluate(offspring)
            results = [self._result(each) for each in offspring]
            self._strategy.tell(results)
            alive = any(result.fitness is not None for result in results)
            fruitless = 0 if alive else fruitless + 1
            if fruitless == FRUITLESS_GENERATIONS:
                raise NoCandidateError(self._complaint(offspring))
            asked, generation = asked + len(points), generation + 1

    def _starting_candidates(self) -> list[Candidate]:
        genome = self._genome
        starts = starting_candidates(genome.base, genome.sources, genome.dtype)
        parents = tuple(digest(start.recipe) for start in starts if start.kind == "source")
        return [
            Candidate(
                number=number,
                digest=digest(start.recipe),
                kind=start.kind,
                name=start.name,
                generation=0,
                genotype=None,
                recipe=recipe_json(start.recipe),
                parents=parents if start.kind == "baseline" else (),
            )
            for number, start in enumerate(starts)
        ]

    def _offspring(self, points: Sequence[Point], generation: int, first: int) -> list[Candidate]:
        recipes = [self._genome.decode(point) for point in points]
        parents = tuple(
            entry.candidate.digest
            for entry in self._entries.values()
            if entry.candidate.kind == "source"
        )
        return [
            Candidate(
                number=first + offset,
                digest=digest(recipe),
                kind="offspring",
                name=None,
                generation=generation,
                genotype=point,
                recipe=recipe_json(recipe),
                parents=parents,
            )
            for offset, (point, recipe) in enumerate(zip(points, recipes, strict=True))
        ]

    def _agreed(self, candidates: list[Candidate]) -> list[Candidate]:
        """Store new candidates; of those the store has already, check that they are the same."""
        known = [each for each in candidates if each.number in self._entries]
        for candidate in known:
            if self._entries[candidate.number].candidate != candidate:
                raise RunError(
                    f"candidate {candidate.number}: the strategy proposes another one now than "
                    "when this run was made; use the package versions that the run recorded"
                )
        new = candidates[len(known) :]
        self._store.add_candidates(new)
        for candidate in new:
            self._entries[candidate.number] = Entry(
                candidate=candidate, outcome=None, fitness=None
            )
        return candidates

    def _result(self, candidate: Candidate) -> Result:
        """What a strategy is told of a candidate."""
        entry = self._entries[candidate.number]
        if not isinstance(entry.outcome, Evaluated):
            return Result(fitness=None)
        signs = self._objective.signs
        return Result(
            fitness=entry.fitness,
            scores=tuple(signs[each.task] * each.score for each in entry.outcome.scores),
            items=tuple(signs[each.task] * item for each in entry.searched for item in each.items),
        )

    def _evaluate(self, candidates: list[Candidate]) -> None:
        """Evaluate those that have no outcome yet."""
        outcomes = {
            entry.candidate.digest: entry.outcome
            for entry in self._entries.values()
            if entry.outcome is not None
        }
        waiting = [each for each in candidates if self._entries[each.number].outcome is None]
        repeats = [each for each in waiting if each.digest in outcomes]
        fresh = {each.digest: each for each in waiting if each.digest not in outcomes}
        race = self._race(candidates[0])
        jobs = [job_of(each, "search", race) for each in fresh.values()]
        for job, outcome in self._measured(self._executor.run(jobs)):
            outcomes[self._entries[job.number].candidate.digest] = outcome
            self._settle(job.number, outcome)
        # The same recipe twice is answered from the store.
        twins = [each for each in waiting if each not in fresh.values() and each not in repeats]
        for candidate in (*repeats, *twins):
            self._settle(candidate.number, outcomes[candidate.digest])

    def _measured(self, results: Iterable[tuple[Job, Outcome]]) -> Iterator[tuple[Job, Outcome]]:
        """The results as they come; while the sources measure the others, together."""
        if self._objective.is_measured:
            yield from results
            return
        together = list(results)
        new = {job.number: outcome for job, outcome in together}
        entries = [
            replace(entry, outcome=new.get(number, entry.outcome))
            for number, entry in self._entries.items()
        ]
        self._objective = self._objective.measured_by(scores_of_sources(entries))
        yield from together

    def _race(self, first: Candidate) -> Race | None:
        """What a generation has to beat: what came before it, whatever is already known of it."""
        # What was confirmed at an end of this search was not known then.
        earlier = [
            replace(entry, confirmed=())
            for number, entry in self._entries.items()
            if number < first.number
        ]
        return race_against(earlier, self._objective, self._racing)

    def _settle(self, number: int, outcome: Outcome) -> None:
        fitness = fitness_of(self._objective, outcome)
        self._store.add_outcome(number, outcome, fitness)
        candidate = self._entries[number].candidate
        entry = Entry(candidate=candidate, outcome=outcome, fitness=fitness)
        self._entries[number] = entry
        self._progress.evaluated(entry, self._total)

    def _complaint(self, candidates: Sequence[Candidate]) -> str:
        outcomes = [self._entries[each.number].outcome for each in candidates]
        reasons = sorted({each.reason for each in outcomes if isinstance(each, Failed)})
        return (
            f"all candidates of {FRUITLESS_GENERATIONS} generations failed: {'; '.join(reasons)}"
        )


def job_of(candidate: Candidate, split: Split, race: Race | None = None) -> Job:
    """The job of scoring a candidate on a split, on all of its items if there is no race."""
    recipe = MergeRecipe.model_validate_json(candidate.recipe)
    return Job(number=candidate.number, recipe=recipe, split=split, race=race)


def fitness_of(objective: Objective, outcome: Outcome) -> float | None:
    """The fitness of what became of a candidate; None if it failed."""
    return objective.fitness(outcome.scores) if isinstance(outcome, Evaluated) else None


def recipe_json(recipe: MergeRecipe) -> str:
    """A recipe as canonical JSON, defaults left out."""
    return canonical_json(recipe.model_dump(mode="json", exclude_defaults=True))
