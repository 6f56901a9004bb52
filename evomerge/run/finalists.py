"""Who may win: the best candidates, scored on all search items, and the mean of their genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.outcome import Failed, Objective
from evomerge.recipe.digest import digest
from evomerge.run.loop import job_of, recipe_json
from evomerge.store.records import Candidate, Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.executors.contract import Executor
    from evomerge.genome.genome import Genome
    from evomerge.store.database import RunStore

FINALISTS = 8
"""Number of candidates that are scored on all search items if they were stopped before."""

ELITE_MEAN = "elite mean"
"""What the mean of the best offspring is called."""


def best(entries: Sequence[Entry], kinds: Sequence[str], objective: Objective) -> Entry:
    """The candidate of some kinds that is best on all search items; the first of equals.

    Raises:
        NoCandidateError: None was evaluated.
    """
    known = [entry for entry in entries if entry.whole and entry.candidate.kind in kinds]
    if not known:
        raise NoCandidateError(f"no {' or '.join(kinds)} could be evaluated")
    return max(known, key=lambda entry: objective.fitness(entry.whole))


def confirm(store: RunStore, executor: Executor, objective: Objective) -> None:
    """Score candidates that were stopped on all search items, until the best ones all are.

    Raises:
        RunError: One of them failed.
    """
    while stopped := [each for each in _best_known(store, objective) if not each.whole]:
        # The same recipe may have been asked for more than once.
        twins: dict[str, list[int]] = {}
        for each in stopped:
            twins.setdefault(each.candidate.digest, []).append(each.candidate.number)
        jobs = {each.candidate.digest: job_of(each.candidate, "search") for each in stopped}
        for job, outcome in executor.run(list(jobs.values())):
            if isinstance(outcome, Failed):
                raise RunError(f"candidate {job.number} on all search items: {outcome.reason}")
            for number in twins[digest(job.recipe)]:
                store.add_scores(number, "confirm", outcome.scores)


def _best_known(store: RunStore, objective: Objective) -> list[Entry]:
    """The finalists, by what is known of them so far."""
    scores = [(each.search_score(objective), each) for each in store.entries()]
    known = [(score, each) for score, each in scores if score is not None]
    known.sort(key=lambda pair: pair[0], reverse=True)  # equal ones stay in order
    return [each for _, each in known[:FINALISTS]]


def add_elite_mean(
    store: RunStore, executor: Executor, objective: Objective, genome: Genome
) -> None:
    """Evaluate the mean of the best offspring's genes.

    Of an optimum that is seen through noise, the mean of the best points is a better estimate than
    the best of them (Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, appendix B).
    """
    entries = store.entries()
    asked = [e for e in entries if e.whole and e.candidate.genotype and e.candidate.number >= 0]
    elites = sorted(asked, key=lambda e: objective.fitness(e.whole), reverse=True)[:FINALISTS]
    if len(elites) < 2:
        return
    genes = zip(*(entry.candidate.genotype or () for entry in elites), strict=True)
    point = tuple(sum(gene) / len(elites) for gene in genes)
    recipe = genome.decode(point)
    same = [entry for entry in entries if entry.candidate.digest == digest(recipe)]
    if any(entry.outcome is not None for entry in same):
        return
    if same:  # asked for by a process that died
        mean = same[0].candidate
    else:
        # Below 0: the search may be continued, with the number after its last.
        number = min(0, *(entry.candidate.number for entry in entries)) - 1
        mean = Candidate(
            number=number,
            digest=digest(recipe),
            kind="offspring",
            name=ELITE_MEAN if number == -1 else f"{ELITE_MEAN} {-number}",
            generation=max(entry.candidate.generation for entry in elites),
            genotype=point,
            recipe=recipe_json(recipe),
            parents=tuple(entry.candidate.digest for entry in elites),
        )
        store.add_candidates([mean])
    for job, outcome in executor.run([job_of(mean, "search")]):
        store.add_outcome(job.number, outcome, objective.fitness_of(outcome))
