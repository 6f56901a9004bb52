"""A refined model takes the place of its student by items that did not choose the student."""

from __future__ import annotations

from evomerge.evaluation.scores.outcome import Evaluated, TaskScore, Timing
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.run.refinement.verdict import judging
from evomerge.store.records import Candidate, Entry

TIMING = Timing(merge_s=0.0, forward_s=0.0, total_s=0.0)


def score(*items: float) -> tuple[TaskScore, ...]:
    return (TaskScore(task="t", score=sum(items) / len(items), items=items),)


def entry(searched: tuple[TaskScore, ...], confirmed: tuple[TaskScore, ...] = ()) -> Entry:
    candidate = Candidate(
        number=0,
        digest="d",
        kind="offspring",
        name=None,
        generation=1,
        genotype=None,
        recipe="{}",
        parents=(),
    )
    outcome = Evaluated(scores=searched, timing=TIMING, share=1.0)
    return Entry(candidate=candidate, outcome=outcome, fitness=0.5, confirmed=confirmed)


def drawn(confirm: int) -> list[TaskItems]:
    positions = tuple(range(10))
    return [
        TaskItems(
            task="t",
            search=positions[:2],
            confirm=positions[2 : 2 + confirm],
            held_out=positions[8:],
        )
    ]


def test_confirm_items_decide_without_the_search_items_that_chose_the_student() -> None:
    found = judging(entry(score(1.0, 1.0), score(1.0, 1.0, 0.0, 0.5)), drawn(confirm=2))
    assert found[0].items == (0.0, 0.5)
    assert found[0].score == 0.25


def test_search_items_decide_where_there_are_no_others() -> None:
    assert judging(entry(score(1.0, 0.5)), drawn(confirm=0)) == score(1.0, 0.5)
