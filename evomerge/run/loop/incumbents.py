"""The best candidates so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.store.records import Entry


def ranked(entries: Iterable[Entry], objective: Objective) -> list[Entry]:
    """Candidates by what is known of them, the best first, equal ones in order of asking."""
    scores = [(entry.search_score(objective), entry) for entry in entries]
    known = [(score, entry) for score, entry in scores if score is not None]
    known.sort(key=lambda each: each[0], reverse=True)
    return [entry for _, entry in known]
