"""When a search ends before its candidates are used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import NoCandidateError
from evomerge.evaluation.outcome import Evaluated, Failed
from evomerge.run.incumbents import ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.objective import Objective
    from evomerge.recipe.search import Stop
    from evomerge.store.records import Entry


FRUITLESS_GENERATIONS, FEWEST = 2, 16
"""After so many generations in a row of failures or repetitions a search ends; and candidates."""


def fruitless(entries: Sequence[Entry], generation: int) -> str | None:
    """Why a search that finds nothing new should end, by what was told so far.

    Args:
        entries: The candidates that were told, in order of asking.
        generation: Candidates under way at a time.

    Raises:
        NoCandidateError: There were only failures.
    """
    # A strategy may ask for each source by its number first, to hear what it scored.
    first = {entry.candidate.digest for entry in entries if entry.candidate.generation == 0}
    offspring = [
        entry
        for entry in entries
        if entry.candidate.generation > 0 and entry.candidate.digest not in first
    ]
    last = offspring[-max(FRUITLESS_GENERATIONS * generation, FEWEST) :]
    if len(last) < max(FRUITLESS_GENERATIONS * generation, FEWEST):
        return None
    reasons = {entry.outcome.reason for entry in last if isinstance(entry.outcome, Failed)}
    if all(isinstance(entry.outcome, Failed) for entry in last):
        why = f"the last {len(last)} candidates failed: {'; '.join(sorted(reasons))}"
        if any(isinstance(entry.outcome, Evaluated) for entry in offspring):
            return why
        raise NoCandidateError(why)
    before = {entry.candidate.digest for entry in offspring[: -len(last)]}
    if {entry.candidate.digest for entry in last} <= before:
        return f"the last {len(last)} candidates were no new ones"
    return None


def reason_to_stop(
    entries: Sequence[Entry], objective: Objective, stop: Stop, generation: int
) -> str | None:
    """Why a search should end, by what was told so far; the same whenever it is asked.

    Args:
        entries: The candidates that were told, in order of asking.
        objective: Turns scores into fitness.
        stop: The limits.
        generation: Candidates under way at a time.

    Returns:
        One line; None if it should go on.
    """
    # The same recipe twice was scored once.
    distinct = {entry.candidate.digest: entry.outcome for entry in entries}
    outcomes = [outcome for outcome in distinct.values() if isinstance(outcome, Evaluated)]
    seconds = sum(outcome.timing.total_s for outcome in outcomes)
    if stop.hours is not None and seconds >= 3600 * stop.hours:
        return f"the workers have worked for {seconds / 3600:.2f} hours"
    items = sum(len(score.items) for outcome in outcomes for score in outcome.scores)
    if stop.items is not None and items >= stop.items:
        return f"{items} items were scored"
    leaders = ranked((entry for entry in entries if entry.searched), objective)
    if not leaders:
        return None
    best = objective.fitness(leaders[0].searched)
    if stop.target is not None and best >= stop.target:
        return f"the target was reached: {best:.3f}"
    leader = leaders[0].candidate.number
    offspring = [entry for entry in entries if entry.candidate.generation > 0]
    since = sum(entry.candidate.number > leader for entry in offspring)
    if stop.patience is not None and since >= stop.patience * generation:
        return f"none of the last {since} candidates was better than the best"
    return None
