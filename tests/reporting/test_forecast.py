"""Promise: what another hour would bring follows from the course of the search, or is not said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import OBJECTIVE

from evomerge.evaluation.scores.outcome import Evaluated, Failed, Outcome, TaskScore, Timing
from evomerge.reporting.forecast import FARTHEST, LEAST, forecast, greatest_rise
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.records import Candidate, Entry


def entry(number: int, score: float | None, seconds: float = 9.0) -> Entry:
    outcome: Outcome = Failed(stage="merge", reason="planted")
    if score is not None:
        task = TaskScore(task="planted", score=score, items=(score,))
        outcome = Evaluated(
            scores=(task,), timing=Timing(merge_s=0.0, forward_s=0.0, total_s=seconds)
        )
    candidate = Candidate(
        number=number,
        digest=str(number),
        kind="offspring",
        name=None,
        generation=1,
        genotype=None,
        recipe="{}",
        parents=(),
    )
    return Entry(candidate=candidate, outcome=outcome, fitness=score)


def rising(candidates: int) -> list[float]:
    """Scores that rise by 0.1 with each doubling, with a bad candidate after each good one."""
    return [0.1 * math.log2(n) if n % 2 == 0 or n == 1 else -1.0 for n in range(1, candidates + 1)]


def test_some_times_the_rise_per_doubling_is_the_most_to_expect() -> None:
    # 64 candidates rose by 0.2 since the first 16; as many again are one doubling.
    assert greatest_rise(rising(64), 64) == pytest.approx(0.25)
    assert greatest_rise(rising(64), 192) == pytest.approx(0.5)
    assert greatest_rise(rising(64), 32) == pytest.approx(0.25 * math.log2(1.5))


def test_a_late_rise_counts_in_full() -> None:
    # 0.1 since the first half, though nothing between the quarter and that.
    assert greatest_rise([*[0.5] * 32, *[0.6] * 32], 64) == pytest.approx(0.25)


def test_a_search_that_no_longer_rises_brings_nothing() -> None:
    assert greatest_rise([0.1, 0.5, *[0.3] * 62], 64) == 0


def course(seconds: float, count: int = 64) -> list[Entry]:
    """A source that solves nothing, and offspring that rise."""
    source = entry(0, 0.0)
    offspring = [entry(n, score, seconds) for n, score in enumerate(rising(count), start=1)]
    return [replace(source, candidate=replace(source.candidate, kind="source")), *offspring]


def told(entries: list[Entry], workers: int = 1) -> dict[str, Any]:
    found = forecast(entries, OBJECTIVE, workers)
    assert found is not None
    return found


def test_an_hour_is_what_the_workers_do_in_it() -> None:
    found = told(course(seconds=72.0), workers=2)
    assert (found["candidates"], found["hours"]) == (100, 1)
    assert found["high"] == pytest.approx(0.25 * math.log2(1 + 100 / 64))
    assert found["text"] == (
        "Another hour (about 100 candidates) would likely raise the best merge's search score by "
        "at most 0.339."
    )


def test_nobody_looks_farther_ahead_than_four_times_what_was_seen() -> None:
    found = told(course(seconds=1.5))
    assert found["candidates"] == FARTHEST * 64
    assert found["text"].startswith("Another 6 minutes (about 260 candidates) would")


def test_slow_candidates_are_at_least_one() -> None:
    assert told(course(seconds=9e3))["text"].startswith("Another hour (about 1 candidate) would")


def test_what_was_not_scored_in_full_is_no_better_than_the_sources() -> None:
    failed = [entry(number, None) for number in range(1, 33)]
    better = [entry(number, 0.1) for number in range(33, 65)]
    source = course(seconds=1.5)[0]
    # All of the rise came with the last doubling; 256 more are 2.3 of them.
    assert told([source, *failed, *better])["high"] == pytest.approx(0.25 * math.log2(5))


def test_the_elite_mean_does_not_count() -> None:
    entries = course(seconds=9.0)
    assert told([*entries, entry(-1, 5.0)]) == told(entries)


def test_a_search_that_is_short_or_without_a_source_says_nothing() -> None:
    assert forecast(course(9.0, LEAST), OBJECTIVE, 1) is not None
    assert forecast(course(9.0, LEAST - 1), OBJECTIVE, 1) is None
    assert forecast(course(9.0)[1:], OBJECTIVE, 1) is None


@pytest.mark.slow
def test_searches_seldom_rise_by_more() -> None:
    """Twenty searches of 48 candidates go on to twice and four times as many."""
    covered = []
    for seed in range(20):
        scores = searched(seed, 192)
        for more in (48, 144):
            most = greatest_rise(scores[:48], more)
            covered.append(max(scores[: 48 + more]) - max(scores[:48]) <= most)
    assert sum(covered) / len(covered) >= 0.8


def searched(seed: int, candidates: int) -> list[float]:
    """The scores of a search: which of 100 items are solved, of rising difficulty, with luck."""
    rng = np.random.default_rng(seed)
    optimum, difficulty = rng.random(8), rng.normal(size=100)
    waves = rng.normal(scale=2.0, size=(100, 8))
    strategy = build_strategy("CMA", StrategySettings(dimension=8, generation=8, seed=seed))
    scores: list[float] = []
    while len(scores) < candidates:
        points = np.array(strategy.ask(8))
        ability = 0.5 - 4 * ((points - optimum) ** 2).sum(axis=1)
        solved = ability[:, None] + 0.5 * np.cos(points @ waves.T) > difficulty
        found = solved.mean(axis=1).tolist()
        strategy.tell([Result(fitness=score) for score in found])
        scores += found
    return scores


def test_a_search_that_does_not_rise_any_more_is_told_so() -> None:
    entries = course(seconds=72.0)
    flat = [replace(each, outcome=entries[0].outcome) for each in entries]
    assert told(flat)["text"].endswith("would likely not raise the best merge's search score.")
