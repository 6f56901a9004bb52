"""The finish: the winner meets the best source on items that the search has never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.outcome import Failed, Objective, TaskScore
from evomerge.evaluation.statistics import PairedComparison, compare
from evomerge.executors.contract import Executor, Job
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.run.loop import Progress
    from evomerge.store.database import RunStore
    from evomerge.store.records import Entry


def finish_search(
    store: RunStore, executor: Executor, objective: Objective, progress: Progress
) -> None:
    """Score the finalists on held-out items and store the verdict.

    The winner is the merge with the best search score and its rival the source with the best
    search score, so that held-out items choose neither. Base, sources and starting candidates are
    scored as well, for the reader.

    Raises:
        NoCandidateError: No merge or no source could be evaluated.
        RunError: A finalist failed on the held-out items.
    """
    entries = store.entries()
    winner = best(entries, ("offspring", "baseline"))
    rival = best(entries, ("source",))
    shown = [e for e in entries if e.candidate.kind != "offspring" and e.fitness is not None]
    finalists = {e.candidate.number: e for e in (winner, rival, *shown)}
    missing = [entry for entry in finalists.values() if not entry.held_out]
    _score_held_out(store, executor, missing, progress)
    scores = {entry.candidate.number: entry.held_out for entry in store.entries()}
    result = compare_scores(
        scores[winner.candidate.number], scores[rival.candidate.number], objective
    )
    store.write_facts({"verdict": _verdict(winner, rival, result), "state": "finished"})


def best(entries: Sequence[Entry], kinds: Sequence[str]) -> Entry:
    """The evaluated candidate of some kinds with the best fitness; the earliest of equals.

    Raises:
        NoCandidateError: None was evaluated.
    """
    known = [
        (entry.fitness, -entry.candidate.number, entry)
        for entry in entries
        if entry.fitness is not None and entry.candidate.kind in kinds
    ]
    if not known:
        raise NoCandidateError(f"no {' or '.join(kinds)} could be evaluated")
    return max(known, key=lambda each: each[:2])[2]


def compare_scores(
    first: Sequence[TaskScore], second: Sequence[TaskScore], objective: Objective
) -> PairedComparison:
    """Compare two candidates' scores on the same items; differences above 0 favour the first."""
    return compare(
        [score.items for score in first],
        [score.items for score in second],
        [objective.signed_share(score.task) for score in first],
    )


def _score_held_out(
    store: RunStore, executor: Executor, entries: Sequence[Entry], progress: Progress
) -> None:
    jobs = [
        Job(
            number=entry.candidate.number,
            recipe=MergeRecipe.model_validate_json(entry.candidate.recipe),
            split="held_out",
        )
        for entry in entries
    ]
    progress.compared(0, len(jobs))
    for done, (job, outcome) in enumerate(executor.run(jobs), start=1):
        if isinstance(outcome, Failed):
            raise RunError(f"candidate {job.number} on held-out items: {outcome.reason}")
        store.add_held_out(job.number, outcome.scores)
        progress.compared(done, len(jobs))


def _verdict(winner: Entry, rival: Entry, result: PairedComparison) -> dict[str, Any]:
    name = rival.candidate.name
    text = (
        f"The winner is {result.verdict} {'from' if result.low <= 0 <= result.high else 'than'} "
        f"the best source ({name}) on {result.items} held-out items: {result.difference:+.3f}, "
        f"95 % interval [{result.low:+.3f}, {result.high:+.3f}], p = {result.p_value:.2g}."
    )
    return {
        "winner": winner.candidate.digest,
        "best_source": rival.candidate.digest,
        "difference": result.difference,
        "interval": [result.low, result.high],
        "p_value": result.p_value,
        "items": result.items,
        "text": text,
    }
