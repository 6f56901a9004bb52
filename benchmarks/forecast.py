"""How often searches of planted landscapes rise by no more than was forecast.

    python benchmarks/forecast.py --seeds 8

Searches of our strategies (see `search_courses.py`), racing included, on landscapes that nothing
was chosen by. At some numbers of offspring the rise of the best score is forecast for so many
times as many more, and looked up.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse

import numpy as np
from landscape import SEARCH_ITEMS, SETTINGS, Landscape, Setting
from search_courses import Ours

from evomerge.reporting.forecast import FARTHEST, LEAST, greatest_rise
from evomerge.search.strategies import STRATEGIES

SEARCHES = ("CMA", "DiagonalCMA", "GA", "DE", "SHADE", "NSGA2", "Sobol", "random")
KNOWN = (LEAST, 64, 100, 200)
AHEAD = (0.1, 0.25, 0.5, 1, 2, FARTHEST)


def main() -> None:
    """Print one line per strategy, size and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=7000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument(
        "--only", nargs="+", default=["CMA", "DiagonalCMA", "GA", "SHADE", "random"]
    )
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    held: list[bool] = []
    for name in options.only:
        for setting in SETTINGS:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                scores = course(name, setting, seed, options.items)
                for known in KNOWN:
                    for ahead in AHEAD:
                        if known * (1 + ahead) <= len(scores):
                            rows.append(
                                (name, f"{setting}", f"{known} known", f"{ahead:g} times ahead")
                            )
                            held.append(is_covered(scores, known, int(known * ahead)))
    print(f"{np.mean(held):.2f} of {len(held)} forecasts")
    for column in range(4):
        for value in dict.fromkeys(row[column] for row in rows):
            share = np.mean([h for h, row in zip(held, rows, strict=True) if row[column] == value])
            print(f"{share:.2f} {value}")


def course(name: str, setting: Setting, seed: int, items: int) -> list[float]:
    """The scores of a search's offspring, the best start's for those that were stopped."""
    landscape, ours = Landscape(setting, seed), Ours()
    strategy = STRATEGIES[name](ours.settings(landscape, seed))
    found = ours.search(landscape, strategy, items + SEARCH_ITEMS)
    starts = len(landscape.starting_points())
    least = max(found.scores[:starts])
    pairs = zip(found.scores[starts:], found.whole[starts:], strict=True)
    return [max(score, least) if whole else least for score, whole in pairs]


def is_covered(scores: list[float], known: int, more: int) -> bool:
    """Whether the best of some scores rose by no more than the first of them let expect."""
    rise = max(scores[: known + more]) - max(scores[:known])
    return rise <= greatest_rise(scores[:known], more) + 1e-9


if __name__ == "__main__":
    main()
