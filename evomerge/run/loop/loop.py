"""The search loop: the one place where strategy, executor and store meet.

Resuming is running the loop again over what the store holds: the strategy is asked and told as it
was before, and only what is missing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from evomerge.errors import RunError
from evomerge.evaluation.scores.outcome import Evaluated, Outcome
from evomerge.recipe.search import Stop
from evomerge.run.loop.breeding import Individuals
from evomerge.run.loop.candidates import fitness_of, job_of, offspring, starting
from evomerge.run.loop.clock import Clock
from evomerge.run.loop.course import Course
from evomerge.run.loop.incumbents import middle_of_elites
from evomerge.search.contract import Finished, Result
from evomerge.store.records import Entry, scores_of_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.racing import Race
    from evomerge.executors.contract import Executor
    from evomerge.genome.genome import Genome
    from evomerge.recipe.search import Racing
    from evomerge.search.contract import Point, Proposal, Strategy
    from evomerge.store.database import RunStore
    from evomerge.store.records import Candidate


class Progress(Protocol):
    """Is told what happens during a search."""

    def measured(self, what: str, done: int, total: int) -> None:
        """So much of what is measured before the search is done."""

    def evaluated(self, entry: Entry, total: int) -> None:
        """A candidate's outcome was stored; `total` candidates are wanted in all."""

    def known(self, entries: Sequence[Entry]) -> None:
        """These candidates were asked for before this process started."""

    def compared(self, done: int, total: int, on: str) -> None:
        """So many of the finalists have been scored on some items, say on which."""

    def refined(self, what: str, done: int, total: int) -> None:
        """So much of a step of the refinement is done."""


LocalSearch = Callable[["Point"], "Strategy"]
"""Builds a strategy that searches around a point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How a strategy is followed.

    Attributes:
        generation: Candidates under way at a time.
        steady: Ask for another one whenever one is told, instead of when all are.
        stop: Reasons to stop before all candidates are used.
    """

    generation: int
    steady: bool
    stop: Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How following a strategy ended.

    Attributes:
        reason: Why it did before all candidates were used; None if they were.
        exhausted: Whether that was because the strategy proposes nothing new.
    """

    reason: str | None = None
    exhausted: bool = False


class SearchLoop:
    """Asks a strategy for candidates, has them evaluated, stores and tells their outcomes.

    Whatever the order in which candidates are done, they are told in the order of asking, and a
    candidate is asked for when a fixed number of others has been told. So what is asked does not
    depend on how long anything takes.

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
        self._go_on: Callable[[], None] | None = None
        self._genome, self._strategy, self._objective = genome, strategy, objective
        self._executor, self._store, self._progress = executor, store, progress
        # Those below 0 were made at the end of a search and are no part of its course.
        self._entries: dict[int, Entry] = {
            e.candidate.number: e for e in store.entries() if e.candidate.number >= 0
        }
        self._outcomes = {
            e.candidate.digest: e.outcome for e in self._entries.values() if e.outcome is not None
        }
        self._waiting: dict[str, list[int]] = {}
        self._individuals = Individuals(genome)
        self._stored = len(self._entries)
        self._total = self._starts = self._asked = self._told = 0
        self._clock = Clock(store, executor.workers * executor.gpus)
        progress.known(list(self._entries.values()))

    def run(
        self,
        candidates: int,
        generation: int,
        *,
        steady: bool = False,
        stop: Stop | None = None,
        go_on: Callable[[], None] | None = None,
        local: LocalSearch | None = None,
    ) -> str | None:
        """Search until `candidates` have been evaluated, or there is a reason to stop.

        Args:
            candidates: How many, the starting ones included.
            generation: How many are under way at a time.
            steady: Ask for another one whenever one is told, instead of when all are.
            stop: Reasons to stop before.
            go_on: Called before the first candidate is stored that the store does not have.
            local: Searches around the mean of the best points when the strategy proposes nothing
                new before all candidates are used; None for no such search.

        Returns:
            Why it stopped before, if it did.

        Raises:
            NoCandidateError: Nothing but failures.
            RunError: The strategy does not repeat what the store says it did.
        """
        self._go_on = go_on
        pace = Pace(generation=generation, steady=steady, stop=stop or Stop())
        try:
            return self._search(candidates, pace, local)
        finally:
            self._clock.keep()

    def _search(self, candidates: int, pace: Pace, local: LocalSearch | None) -> str | None:
        first = starting(self._genome)
        self._total = max(candidates, len(first), len(self._entries))
        self._submit(self._agreed(first), None)
        self._settle_first()
        self._asked = self._starts = len(first)
        course = Course(self._objective, pace.generation)
        self._tell(course, self._asked)
        ending = self._follow(self._strategy, course, pace)
        self._tell(course, self._asked)  # what was under way when it ended
        reason = ending.reason
        if local and ending.exhausted and self._told < self._total and (start := self._middle()):
            course.begin_strategy()
            then = self._follow(local(start), course, pace).reason
            self._tell(course, self._asked)
            reason = then and f"{reason}, then {then}"
        return reason

    def _follow(self, strategy: Strategy, course: Course, pace: Pace) -> Ending:
        """Have a strategy's proposals evaluated until all candidates are used, or it is to end."""
        while self._told < self._total:
            if reason := self._reason_to_stop(course, pace.stop):
                return Ending(reason=reason)
            wanted = min(self._told + pace.generation, self._total)
            if self._asked < wanted and (pace.steady or self._asked == self._told):
                try:
                    proposals = strategy.ask(wanted - self._asked)
                except Finished as finished:
                    return Ending(reason=str(finished), exhausted=True)
                self._add(proposals, course, pace.generation)
            if self._asked == self._told:
                raise RunError(
                    f"{type(strategy).__name__} proposes nothing though all that it asked "
                    "for was told; a strategy that is done raises Finished"
                )
            told = self._told
            self._tell(course, told + 1 if pace.steady else self._asked)
            strategy.tell([self._result(number) for number in range(told, self._told)])
            if reason := course.failing():
                return Ending(reason=reason)
            if reason := course.repeating():
                return Ending(reason=reason, exhausted=True)
        return Ending()

    def _middle(self) -> Point | None:
        told = (self._entries[number] for number in range(self._told))
        return middle_of_elites(told, self._genome)

    def _reason_to_stop(self, course: Course, stop: Stop) -> str | None:
        reason = course.reason_to_stop(stop)
        # Time is not what it was when it is replayed: nothing ends before all that is stored.
        if reason or self._asked < self._stored:
            return reason
        return self._clock.reason_to_stop(stop)

    def _add(self, proposals: Sequence[Proposal], course: Course, generation: int) -> None:
        """Have what a strategy proposes evaluated."""
        new = [
            offspring(
                self._individuals.add(proposal),
                number=number,
                generation=1 + (number - self._starts) // generation,
                parents=self._individuals.parents(proposal),
                point=proposal if isinstance(proposal, tuple) else None,
            )
            for number, proposal in enumerate(proposals, start=self._asked)
        ]
        self._submit(self._agreed(new), course.race(self._racing))
        self._asked += len(new)

    def _tell(self, course: Course, until: int) -> None:
        """Wait for the candidates up to one, and tell the course what became of them."""
        self._wait(self._told, until)
        course.tell([self._entries[number] for number in range(self._told, until)])
        self._told = until

    def _agreed(self, candidates: list[Candidate]) -> list[Candidate]:
        """Store new candidates; of those the store has already, check that they are the same."""
        known = [each for each in candidates if each.number in self._entries]
        for candidate in known:
            # The same recipe may have been written in another way.
            stored = self._entries[candidate.number].candidate
            if replace(stored, recipe=candidate.recipe) != candidate:
                raise RunError(
                    f"candidate {candidate.number}: the strategy proposes another one now than "
                    "when this run was made; use the evomerge that made it, with the package "
                    "versions that the run recorded"
                )
        new = candidates[len(known) :]
        if new and self._go_on:
            self._go_on()
            self._go_on = None
        self._store.add_candidates(new)
        for candidate in new:
            self._entries[candidate.number] = Entry(
                candidate=candidate, outcome=None, fitness=None
            )
        return candidates

    def _submit(self, candidates: Sequence[Candidate], race: Race | None) -> None:
        """Have those evaluated that have no outcome yet; the same recipe only once."""
        for each in candidates:
            if self._entries[each.number].outcome is not None:
                continue
            if each.digest in self._outcomes:
                self._settle(each.number, self._outcomes[each.digest])
            elif each.digest in self._waiting:
                self._waiting[each.digest].append(each.number)
            else:
                self._waiting[each.digest] = [each.number]
                self._executor.submit(job_of(each, "search", race))

    def _wait(self, first: int, until: int) -> None:
        """Wait for all candidates from one to another."""
        for number in range(first, until):
            while self._entries[number].outcome is None:
                job, outcome = self._executor.collect()
                self._settle_all(job.number, outcome)

    def _settle_first(self) -> None:
        """Wait for the starting candidates, and measure them by the sources among them."""
        while self._waiting:
            job, outcome = self._executor.collect()
            self._settle_all(job.number, outcome)
        if self._objective.is_measured:
            return
        self._objective = self._objective.measured_by(scores_of_sources(self._entries.values()))
        for number, entry in self._entries.items():
            if entry.candidate.generation == 0 and entry.outcome is not None:
                fitness = fitness_of(self._objective, entry.outcome)
                self._store.revise_fitness(number, fitness)
                self._entries[number] = replace(entry, fitness=fitness)
        self._progress.known(list(self._entries.values()))

    def _settle_all(self, number: int, outcome: Outcome) -> None:
        """Store the outcome of a job, for all candidates that have its recipe."""
        for twin in self._waiting.pop(self._entries[number].candidate.digest):
            self._settle(twin, outcome)
        self._clock.keep_now_and_then()

    def _settle(self, number: int, outcome: Outcome) -> None:
        fitness = fitness_of(self._objective, outcome)
        self._store.add_outcome(number, outcome, fitness)
        self._outcomes[self._entries[number].candidate.digest] = outcome
        candidate = self._entries[number].candidate
        entry = Entry(candidate=candidate, outcome=outcome, fitness=fitness)
        self._entries[number] = entry
        self._progress.evaluated(entry, self._total)

    def _result(self, number: int) -> Result:
        """What a strategy is told of a candidate."""
        entry = self._entries[number]
        if not isinstance(entry.outcome, Evaluated):
            return Result(fitness=None)
        signs = self._objective.signs
        return Result(
            fitness=entry.fitness,
            scores=tuple(signs[each.task] * each.score for each in entry.outcome.scores),
            items=tuple(signs[each.task] * item for each in entry.searched for item in each.items),
        )
