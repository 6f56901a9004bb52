"""When a search ends before its candidates are used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.evaluation.outcome import Evaluated
from evomerge.run.incumbents import ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.objective import Objective
    from evomerge.recipe.search import Stop
    from evomerge.store.records import Entry


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
    outcomes = [entry.outcome for entry in entries if isinstance(entry.outcome, Evaluated)]
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
    since = sum(entry.candidate.number > leaders[0].candidate.number for entry in entries)
    if stop.patience is not None and since >= stop.patience * generation:
        return f"none of the last {since} candidates was better than the best"
    return None
