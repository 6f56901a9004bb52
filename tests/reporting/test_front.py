"""Promise: the front holds whatever no other candidate beats on every task, and nothing else."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from evomerge.errors import NoCandidateError
from evomerge.evaluation.scores.outcome import Evaluated, Failed, TaskScore, Timing
from evomerge.reporting.front import front
from evomerge.store.database import RunStore
from evomerge.store.records import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome

TIMING = Timing(merge_s=0.0, forward_s=0.0, total_s=0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with closing(RunStore.create(tmp_path / "run.sqlite")) as made:
        facts = {
            "weights": {"accuracy": 1.0, "perplexity": 1.0},
            "higher_is_better": {"accuracy": True, "perplexity": False},
        }
        made.write_facts(facts)
        yield made


def scored(accuracy: float, perplexity: float) -> Evaluated:
    scores = (
        TaskScore(task="accuracy", score=accuracy, items=(accuracy,)),
        TaskScore(task="perplexity", score=perplexity, items=(perplexity,)),
    )
    return Evaluated(scores=scores, timing=TIMING)


def add(store: RunStore, digest: str, outcome: Outcome, kind: str = "offspring") -> None:
    number = len(store.entries())
    candidate = Candidate(
        number=number,
        digest=digest,
        kind=kind,  # type: ignore[arg-type]
        name=None,
        generation=1,
        genotype=None,
        recipe="{}",
        parents=(),
    )
    store.add_candidates([candidate])
    store.add_outcome(number, outcome, 0.0 if isinstance(outcome, Evaluated) else None)


def names(store: RunStore) -> set[str]:
    return {each["candidate"] for each in front(store)["candidates"]}


def test_a_candidate_is_on_the_front_unless_another_is_better(store: RunStore) -> None:
    add(store, "exact", scored(0.9, 5.0))
    add(store, "fluent", scored(0.3, 2.0))
    add(store, "beaten", scored(0.3, 2.1))
    assert names(store) == {"exact", "fluent"}
    assert front(store)["compared"] == 3


def test_failures_and_repetitions_are_not_on_the_front(store: RunStore) -> None:
    add(store, "failed", Failed(stage="merge", reason="planted"))
    add(store, "once", scored(0.5, 3.0))
    add(store, "once", scored(0.5, 3.0))
    assert len(front(store)["candidates"]) == 1


def test_stopped_candidates_are_counted_and_not_compared(store: RunStore) -> None:
    add(store, "whole", scored(0.5, 3.0))
    add(store, "stopped", scored(0.9, 1.0))
    entries = [
        replace(entry, outcome=replace(entry.outcome, share=0.5))  # type: ignore[type-var]
        if entry.candidate.digest == "stopped"
        else entry
        for entry in store.entries()
    ]
    store.entries = lambda: entries  # type: ignore[method-assign]
    assert names(store) == {"whole"}
    assert front(store)["stopped"] == 1


def test_a_finalist_that_was_stopped_and_then_scored_in_full_is_compared(store: RunStore) -> None:
    add(store, "stopped", scored(0.9, 1.0))
    store.add_scores(0, "confirm", scored(0.8, 2.0).scores)
    add(store, "beaten", scored(0.7, 2.0))
    assert names(store) == {"stopped"}
    assert front(store)["candidates"][0]["scores"] == {"accuracy": 0.8, "perplexity": 2.0}


def test_the_hypervolume_is_that_above_the_base(store: RunStore) -> None:
    add(store, "base", scored(0.2, 6.0), kind="base")
    add(store, "source", scored(0.3, 4.0), kind="source")
    add(store, "merge", scored(0.5, 5.0))
    # Above (0.2, -6): the source spans 0.1 x 2, the merge 0.3 x 1, both together 0.1 x 1.
    document = front(store)
    assert document["hypervolume"] == pytest.approx(0.2 + 0.3 - 0.1)
    assert document["hypervolume_of_sources"] == pytest.approx(0.2)


def test_without_scores_there_is_no_front(store: RunStore) -> None:
    add(store, "failed", Failed(stage="merge", reason="planted"))
    with pytest.raises(NoCandidateError, match="no candidate was scored on all search items"):
        front(store)
