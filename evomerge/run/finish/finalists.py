"""Who may win: the best candidates, scored on all items but the held-out ones, and their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.scores.outcome import Failed
from evomerge.executors.contract import evaluate
from evomerge.recipe.digest import digest
from evomerge.run.loop.candidates import fitness_of, job_of, offspring
from evomerge.run.loop.incumbents import of_one_operator, ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import Split, TaskScore
    from evomerge.executors.contract import Executor
    from evomerge.genome.genome import Genome
    from evomerge.run.loop.loop import Progress
    from evomerge.store.database import RunStore
    from evomerge.store.records import Candidate, Entry

FINALISTS = 8
"""Number of candidates that are scored on all items but the held-out ones."""

ELITE_MEAN, ELITE_SOUP = "elite mean", "elite soup"
"""What the mean of the best offspring is called, and of those that were chosen for it."""


def confirm(
    store: RunStore, executor: Executor, objective: Objective, progress: Progress
) -> list[Entry]:
    """Score the best candidates, and those they are compared with, on all items but the held-out.

    Returns:
        The candidates that have been, the best first.

    Raises:
        RunError: One of them failed.
    """
    split: Split = "confirm" if any(items.confirm for items in store.items()) else "search"
    while waiting := [e for e in _finalists(store, objective) if not _scores(e, split)]:
        # The same recipe may have been asked for more than once.
        twins: dict[str, list[int]] = {}
        for each in waiting:
            twins.setdefault(each.candidate.digest, []).append(each.candidate.number)
        jobs = {each.candidate.digest: job_of(each.candidate, split) for each in waiting}
        on = "search and confirm items" if split == "confirm" else "all search items"
        progress.compared(0, len(jobs), on)
        for done, (job, outcome) in enumerate(evaluate(executor, jobs.values()), start=1):
            progress.compared(done, len(jobs), on)
            if isinstance(outcome, Failed):
                raise RunError(f"candidate {job.number}, a finalist: {outcome.reason}")
            for number in twins[digest(job.recipe)]:
                store.add_scores(number, "confirm", outcome.scores)
    return ranked((entry for entry in store.entries() if _scores(entry, split)), objective)


def best(finalists: Sequence[Entry], kinds: Sequence[str]) -> Entry:
    """The best of some kinds.

    Args:
        finalists: Candidates, the best first.
        kinds: What it may be.

    Raises:
        NoCandidateError: There is none.
    """
    for entry in finalists:
        if entry.candidate.kind in kinds:
            return entry
    raise NoCandidateError(f"no {' or '.join(kinds)} could be evaluated")


def _finalists(store: RunStore, objective: Objective) -> list[Entry]:
    """The best candidates, whom they are compared with, and means of the best."""
    known = ranked(store.entries(), objective)
    others = [
        entry
        for entry in known[FINALISTS:]
        if entry.candidate.kind != "offspring" or entry.candidate.number < 0
    ]
    return known[:FINALISTS] + others


def _scores(entry: Entry, split: Split) -> tuple[TaskScore, ...]:
    return entry.confirmed if split == "confirm" else entry.whole


def best_points(entries: Sequence[Entry], objective: Objective) -> list[Entry]:
    """The best offspring that stand for points and were scored on all search items."""
    asked = [e for e in entries if e.whole and e.candidate.genotype and e.candidate.number >= 0]
    return ranked(asked, objective)[:FINALISTS]


def add_elite_mean(
    store: RunStore, executor: Executor, objective: Objective, genome: Genome
) -> None:
    """Evaluate the mean of the best offspring's genes, and what most of them choose.

    Of an optimum that is seen through noise, the mean of the best points is a better estimate than
    the best of them (Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, appendix B).
    """
    elites = of_one_operator(best_points(store.entries(), objective), genome)
    if len(elites) >= 2:
        mean = _mean(ELITE_MEAN, elites, store, genome)
        _evaluate(mean, store, executor, objective)


def add_elite_soup(
    store: RunStore, executor: Executor, objective: Objective, genome: Genome
) -> str | None:
    """Evaluate means of the best offspring, to which one after the other is added.

    From the best on, each stays in the mean unless that scores less on the search items (Wortsman
    et al., "Model soups", 2022, recipe 1; theirs averages weights, ours genes).

    Returns:
        Digest of the soup; None if it is of one offspring only.
    """
    seen = [entry for entry in best_points(store.entries(), objective) if entry.searched]
    seen.sort(key=lambda entry: objective.fitness(entry.searched), reverse=True)
    elites = of_one_operator(seen, genome)
    if not elites:
        return None
    soup, kept, score = elites[:1], None, objective.fitness(elites[0].searched)
    for elite in elites[1:]:
        mean = _mean(ELITE_SOUP, [*soup, elite], store, genome)
        found = _evaluate(mean, store, executor, objective)
        if found is not None and found >= score:
            soup, kept, score = [*soup, elite], mean.digest, found
    return kept


def _mean(name: str, elites: Sequence[Entry], store: RunStore, genome: Genome) -> Candidate:
    """The mean of some points; the candidate that is known already, if one has its recipe."""
    entries = store.entries()
    point = genome.mean([entry.candidate.genotype or () for entry in elites])
    # Below 0: the search may be continued, with the number after its last.
    number = min(0, *(entry.candidate.number for entry in entries)) - 1
    mean = offspring(
        genome.decode(point),
        point=point,
        number=number,
        generation=max(entry.candidate.generation for entry in elites),
        parents=tuple(entry.candidate.digest for entry in elites),
        name=name if number == -1 else f"{name} {-number}",
    )
    same = [entry.candidate for entry in entries if entry.candidate.digest == mean.digest]
    return same[0] if same else mean


def _evaluate(
    mean: Candidate, store: RunStore, executor: Executor, objective: Objective
) -> float | None:
    """The fitness of a mean on the search items, scored if it was not; None if it failed."""
    same = [entry for entry in store.entries() if entry.candidate.digest == mean.digest]
    for entry in same:
        if entry.outcome is not None:
            return objective.fitness(entry.searched) if entry.searched else None
    if not same:  # else asked for by a process that died
        store.add_candidates([mean])
    ((_, outcome),) = evaluate(executor, [job_of(mean, "search")])
    fitness = fitness_of(objective, outcome)
    store.add_outcome(mean.number, outcome, fitness)
    return fitness
