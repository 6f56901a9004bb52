"""The best candidates so far, and what a new one has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evomerge.evaluation.racing import TRUSTED, Race

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.evaluation.objective import Objective
    from evomerge.recipe.search import Racing
    from evomerge.store.records import Entry


def ranked(entries: Iterable[Entry], objective: Objective) -> list[Entry]:
    """Candidates by what is known of them, the best first, equal ones in order of asking."""
    scores = [(entry.search_score(objective), entry) for entry in entries]
    known = [(score, entry) for score, entry in scores if score is not None]
    known.sort(key=lambda each: each[0], reverse=True)
    return [entry for _, entry in known]


def race_against(
    entries: Sequence[Entry], objective: Objective, racing: Racing | None
) -> Race | None:
    """The race of a generation against what was scored on all search items before it.

    Args:
        entries: The candidates of earlier generations, without what is known of finalists only.
        objective: Turns scores into fitness.
        racing: The rungs; None for no race.
    """
    known = ranked((entry for entry in entries if entry.searched), objective)
    if racing is None or not known:
        return None
    expected = {
        scores[0].task: np.mean([score.items for score in scores], axis=0).tolist()
        for scores in zip(*(entry.searched for entry in known[:TRUSTED]), strict=True)
    }
    items = {
        scores[0].task: [item for score in scores for item in score.items]
        for scores in zip(*(entry.searched for entry in known), strict=True)
    }
    return Race(
        to_beat=objective.fitness(known[0].searched),
        aims=objective.aims(),
        expected=expected,
        ranges={task: max(of) - min(of) for task, of in items.items()},
        alpha=racing.alpha,
        looks=len(racing.rungs),
    )
