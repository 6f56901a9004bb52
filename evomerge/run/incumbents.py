"""What a new candidate has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evomerge.evaluation.racing import TRUSTED, Race

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.outcome import Objective
    from evomerge.recipe.search import Racing
    from evomerge.store.records import Entry


def race_against(
    entries: Sequence[Entry], objective: Objective, racing: Racing | None
) -> Race | None:
    """The race of a generation against what was scored on all items before it.

    Args:
        entries: The candidates of earlier generations.
        objective: Turns scores into fitness.
        racing: The rungs; None for no race.
    """
    known = [(objective.fitness(e.whole), -e.candidate.number, e) for e in entries if e.whole]
    if racing is None or not known:
        return None
    known.sort(key=lambda each: each[:2], reverse=True)
    trusted = [entry.whole for *_, entry in known[:TRUSTED]]
    expected = {
        scores[0].task: np.mean([score.items for score in scores], axis=0).tolist()
        for scores in zip(*trusted, strict=True)
    }
    items = {
        scores[0].task: [item for score in scores for item in score.items]
        for scores in zip(*(entry.whole for *_, entry in known), strict=True)
    }
    return Race(
        to_beat=known[0][0],
        shares=objective.signed_shares(),
        expected=expected,
        ranges={task: max(of) - min(of) for task, of in items.items()},
        alpha=racing.alpha,
        looks=len(racing.rungs),
    )
