"""What racing would have saved in searches that scored every candidate on all items.

    python benchmarks/racing.py runs/quickstart ...

Each run is replayed: its candidates race, generation by generation, against what came before them.
Printed are the share of the items that would have been scored, how many candidates would have been
stopped, how many of those were better than the best before them, whether the winner is the same,
and what expected scores save at the first rung: the variance of the estimate against that of the
mean of the items seen.
"""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from evomerge.evaluation.scores.outcome import Evaluated, TaskScore
from evomerge.recipe.search import Racing
from evomerge.reporting.leaderboard import read_objective
from evomerge.run.loop.course import Course
from evomerge.store.database import RunStore
from evomerge.store.records import Entry

if TYPE_CHECKING:
    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.racing import Race


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--alpha", type=float, default=Racing().alpha)
    options = parser.parse_args()
    print("run                  items  stopped  wrongly  same winner  variance")
    for run in options.run:
        with closing(RunStore.open_for_reading(run / "run.sqlite")) as store:
            entries = [e for e in store.entries() if e.candidate.number >= 0]
            objective = read_objective(store)
        print(f"{run.name:<20}", replay(entries, objective, Racing(alpha=options.alpha)))


def replay(entries: list[Entry], objective: Objective, racing: Racing) -> str:
    """One line about a run whose candidates were all scored on all items."""
    shares, ratios, wrongly, known = [], [], 0, list[Entry]()
    generations = sorted({entry.candidate.generation for entry in entries})
    course = Course(objective, generation=1)
    for generation in generations:
        race, told = course.race(racing), len(known)
        for entry in [e for e in entries if e.candidate.generation == generation and e.whole]:
            share = lost_after(entry, race, racing) if race else 1.0
            if race:
                shares.append(share)
                ratios.append(variance_ratio(entry.whole, race, racing.rungs[0]))
                wrongly += share < 1 and objective.fitness(entry.whole) > race.to_beat
            if share == 1:
                known.append(entry)
            elif isinstance(entry.outcome, Evaluated):
                known.append(replace(entry, outcome=replace(entry.outcome, share=share)))
        course.tell(known[told:])
    finalists = [e for e in known if e.whole]
    winner = max(finalists, key=lambda e: objective.fitness(e.whole)).candidate.number
    best = max((e for e in entries if e.whole), key=lambda e: objective.fitness(e.whole))
    stopped = sum(share < 1 for share in shares)
    return (
        f"{mean(shares):>5.0%}  {stopped:>3}/{len(shares)}  {wrongly:>7}  "
        f"{'yes' if winner == best.candidate.number else 'no':>11}  {mean(ratios):>8.2f}"
    )


def lost_after(entry: Entry, race: Race, racing: Racing) -> float:
    """The share of the items after which a candidate would have been stopped."""
    for rung in racing.rungs:
        seen = [
            TaskScore(
                task=score.task,
                score=score.score,
                items=score.items[: math.ceil(rung * len(score.items))],
            )
            for score in entry.whole
        ]
        if race.stopped(seen) is not None:
            return rung
    return 1.0


def variance_ratio(scores: tuple[TaskScore, ...], race: Race, rung: float) -> float:
    """Variance of the difference estimator against that of the plain mean, for a random sample."""
    ours = plain = 0.0
    for score in scores:
        items = np.asarray(score.items)
        seen = math.ceil(rung * len(items))
        share = race.aims[0].shares[score.task] ** 2 / seen
        ours += share * float((items - np.asarray(race.expected[score.task])).var(ddof=1))
        plain += share * float(items.var(ddof=1))
    return ours / plain if plain else 1.0


if __name__ == "__main__":
    main()
