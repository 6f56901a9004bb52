"""How well a candidate's score on all items is told from some of them, by several estimators.

    python benchmarks/estimators.py runs/quickstart ...

Each run, made without racing, is replayed: the candidates of every generation after the first are
estimated from a share of their items in random orders, which are the same for all candidates and
estimators; what an estimator knows of the items comes from earlier generations alone. Printed are,
in points of 100, the bias (mean error), the bias for those candidates that beat all earlier ones,
and the root mean square error; and Kendall's tau-b of the estimated and the true fitness of all
candidates, the mean over orders.
"""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evomerge.evaluation.scores.item_response import (
    Items,
    fit_ability,
    fit_items,
    gmp_irt,
    mp_irt,
    mp_irt_difference,
)
from evomerge.evaluation.scores.racing import estimate
from evomerge.recipe.search import Racing
from evomerge.reporting.leaderboard import read_objective
from evomerge.run.loop.course import Course
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.statistics import Array
    from evomerge.store.records import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """What is known of the items of each task, in some order, when a candidate is scored.

    Attributes:
        expected: What the difference estimator of races expects.
        items: Item parameters.
        sources: Abilities of the sources.
        to_beat: The best fitness so far.
    """

    expected: list[Array]
    items: list[Items]
    sources: Array
    to_beat: float

    def ordered(self, orders: list[np.ndarray]) -> Knowledge:
        """The same of the items in these orders, one per task."""
        return Knowledge(
            expected=[of[order] for of, order in zip(self.expected, orders, strict=True)],
            items=[of[order] for of, order in zip(self.items, orders, strict=True)],
            sources=self.sources,
            to_beat=self.to_beat,
        )


ESTIMATORS: dict[str, Callable[[list[list[float]], Knowledge], list[float]]] = {
    "mean of items seen": lambda seen, _: [float(np.mean(scores)) for scores in seen],
    "difference": lambda seen, known: [
        estimate(scores, expected.tolist(), 1.0).score
        for scores, expected in zip(seen, known.expected, strict=True)
    ],
    "p-IRT": lambda seen, known: mp_irt(seen, known.items, None),
    "mp-IRT": lambda seen, known: mp_irt(seen, known.items, known.sources),
    "gmp-IRT": lambda seen, known: gmp_irt(seen, known.items, known.sources),
    "difference, p-IRT": lambda seen, known: mp_irt_difference(seen, known.items, None),
    "difference, mp-IRT": lambda seen, known: mp_irt_difference(seen, known.items, known.sources),
}


def main() -> None:
    """Print a line per run, share and estimator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--dimensions", type=int, help="of ability; by default one per source")
    options = parser.parse_args()
    print("run           items  estimator             bias  of best  rmse   tau")
    rows: dict[tuple[float, str], list[list[float]]] = {}
    for run in options.run:
        with closing(RunStore.open_for_reading(run / "run.sqlite")) as store:
            entries = [e for e in store.entries() if e.candidate.number >= 0 and e.whole]
            objective = read_objective(store)
        known = knowledge(entries, objective, options.dimensions)
        for share in options.shares:
            for name, row in replay(entries, objective, known, share, options.orders).items():
                rows.setdefault((share, name), []).append(row)
                show(run.name, share, name, row)
    for (share, name), each in rows.items():
        show("mean of runs", share, name, np.mean(each, axis=0).tolist())


def show(run: str, share: float, name: str, row: list[float]) -> None:
    """Print one line."""
    bias, best, error, tau = row
    print(
        f"{run:<13} {share:>5.0%}  {name:<18} {bias:>7.2f} {best:>8.2f} {error:>5.2f} {tau:>5.2f}"
    )


def knowledge(
    entries: list[Entry], objective: Objective, dimensions: int | None
) -> dict[int, Knowledge]:
    """What each generation after the first knows from earlier ones, items in the run's order."""
    found = {}
    for generation in sorted({entry.candidate.generation for entry in entries})[1:]:
        earlier = [e for e in entries if e.candidate.generation < generation]
        course = Course(objective, generation=1)
        course.tell(earlier)
        race = course.race(Racing())
        if race is None:
            raise SystemExit("a run without candidates in its first generation")
        answers = np.array([np.concatenate([s.items for s in e.whole]) for e in earlier])
        sources = answers[[e.candidate.kind == "source" for e in earlier]]
        fitted = fit_items(answers, dimensions or len(sources))
        ends = np.cumsum([len(score.items) for score in earlier[0].whole]).tolist()
        found[generation] = Knowledge(
            expected=[np.array(race.expected[score.task]) for score in earlier[0].whole],
            items=[fitted[start:end] for start, end in zip([0, *ends], ends, strict=False)],
            sources=np.array([fit_ability(fitted, each) for each in sources]),
            to_beat=race.to_beat,
        )
    return found


def replay(
    entries: list[Entry],
    objective: Objective,
    known: dict[int, Knowledge],
    share: float,
    orders: int,
) -> dict[str, list[float]]:
    """Bias, bias of the best, error and tau of each estimator."""
    later = [entry for entry in entries if entry.candidate.generation in known]
    shares = [objective.aims()[0].shares[score.task] for score in later[0].whole]
    truth = np.array([objective.fitness(entry.whole) for entry in later])
    best = truth > [known[entry.candidate.generation].to_beat for entry in later]
    found = {name: np.zeros((orders, len(later))) for name in ESTIMATORS}
    rng = np.random.default_rng(0)
    for row in range(orders):
        order = [rng.permutation(len(score.items)) for score in later[0].whole]
        ordered = {generation: each.ordered(order) for generation, each in known.items()}
        for column, entry in enumerate(later):
            seen = [
                [score.items[place] for place in places[: math.ceil(share * len(places))]]
                for score, places in zip(entry.whole, order, strict=True)
            ]
            for name, estimator in ESTIMATORS.items():
                scores = estimator(seen, ordered[entry.candidate.generation])
                found[name][row, column] = np.dot(shares, scores)
    return {
        name: [
            100 * float((each - truth).mean()),
            100 * float((each - truth)[:, best].mean()) if best.any() else math.nan,
            100 * math.sqrt(((each - truth) ** 2).mean()),
            float(np.mean([tau_b(row, truth) for row in each])),
        ]
        for name, each in found.items()
    }


def tau_b(first: Array, second: Array) -> float:
    """Kendall's rank correlation, corrected for ties; differences below 1e-9 are ties."""
    signs = [
        np.sign(np.round(values[:, None] - values[None], 9)).ravel() for values in (first, second)
    ]
    norm = np.linalg.norm(signs[0]) * np.linalg.norm(signs[1])
    return float(signs[0] @ signs[1] / norm) if norm else 0.0


if __name__ == "__main__":
    main()
