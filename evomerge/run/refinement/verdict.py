"""Whether a refined model takes the place of the merge it was made from, and how they compare."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evomerge.run.finish.finish import compare_scores, margin, sentence, verdict_on
from evomerge.store.records import scores_of_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import TaskScore
    from evomerge.evaluation.scores.statistics import PairedComparison
    from evomerge.evaluation.tasks.items import TaskItems
    from evomerge.store.database import RunStore
    from evomerge.store.records import Candidate, Entry

CONTROL = "trained on the texts alone"
KINDS = ("refined", "control")


def conclude(
    store: RunStore, objective: Objective, student: Candidate, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Choose between a student and what it became, and compare them on held-out items.

    Args:
        store: Has the scores of all of them.
        objective: What is compared.
        student: The winner of the search.
        candidates: What it became, and the controls.

    Returns:
        `student`, the digest; `verdict`, as that of a search; `comparisons` of the refined model.
    """
    entries, drawn = store.entries(), store.items()
    objective = objective.measured_by(scores_of_sources(entries))
    known = {entry.candidate.number: entry for entry in entries}
    before = known[student.number]
    of_kind = {kind: [known[c.number] for c in candidates if c.kind == kind] for kind in KINDS}

    def judged(entry: Entry) -> float:
        return objective.fitness(judging(entry, drawn))

    best = max(of_kind["refined"], key=judged)
    # The same items right in another order are another sum in the last digits.
    kept = judged(best) >= judged(before) - 1e-9
    verdict = store.fact("verdict")
    if kept:
        digests = [each["rival"] for each in verdict["comparisons"]]
        rivals = [e for d in digests for e in entries if e.candidate.digest == d and e.held_out]
        verdict = verdict_on(best, rivals, objective, best)
    against = {"the merge it was made from": before}
    against |= {f"the same merge {CONTROL}": each for each in of_kind["control"]}
    results = {
        what: compare_scores(best.held_out, each.held_out, objective, comparisons=len(against))
        for what, each in against.items()
    }
    lines = [
        sentence("The refined model", what, each, objective) for what, each in results.items()
    ]
    if not kept:
        lines.append(
            f"It is {margin(judged(before) - judged(best))} behind on the items that choose, so "
            "the winner is the merge as it was."
        )
    return {
        "student": student.digest,
        "verdict": verdict | {"text": "\n".join([verdict["text"], *lines])},
        "comparisons": {what: _as_json(each) for what, each in results.items()},
    }


def judging(entry: Entry, drawn: Sequence[TaskItems]) -> tuple[TaskScore, ...]:
    """The scores that decide whether a refined model is kept: those on confirm items.

    The search chose the student by its search items, where it was lucky and the refined model
    was not; they count only where there are no others.
    """
    if not entry.confirmed or not any(items.confirm for items in drawn):
        return entry.whole
    seen = {items.task: len(items.search) for items in drawn}
    return tuple(_after(score, seen[score.task]) for score in entry.confirmed)


def _after(score: TaskScore, seen: int) -> TaskScore:
    rest = score.items[seen:]
    # A task without confirm items says what it can.
    return replace(score, items=rest, score=sum(rest) / len(rest)) if rest else score


def _as_json(result: PairedComparison) -> dict[str, Any]:
    return {
        "difference": result.difference,
        "interval": [result.low, result.high],
        "p_value": result.p_value,
        "verdict": result.verdict,
    }
