"""What a local search makes of candidates that a strategy has left over, on planted landscapes.

    python benchmarks/left_over.py [--seeds 24]

CMA searches with a part of 20,000 item evaluations, as if it had nothing left to propose then. A
coordinate search has the rest. It starts from the best point, or from the mean of the best eight.
Measured is the share of 3,000 held-out items that the chosen candidate solves (see
`search_quality.py`), minus that without the coordinate search: the mean over seeds with a 95 %
bootstrap interval.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import copy
import multiprocessing
from dataclasses import replace

import numpy as np
from landscape import SEARCH_ITEMS, SETTINGS, Landscape, Setting
from search_courses import Course, Ours
from search_quality import difference

from evomerge.run.loop.incumbents import ELITES
from evomerge.search.coordinate import CoordinateSearch
from evomerge.search.strategies import STRATEGIES

BUDGET, PARTS, STEPS = 200 * SEARCH_ITEMS, (4000, 10_000), (0.25, 0.1)


def main() -> None:
    """Print one table per setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for setting in SETTINGS:
            jobs = [(setting, seed) for seed in range(options.seeds)]
            gains = pool.starmap(gains_of, jobs)
            print(f"dimension {setting}, {options.seeds} seeds")
            for name in gains[0]:
                low, mean, high = difference(np.array([each[name] for each in gains]))
                print(f"  {name:<42}{mean:+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)


def gains_of(setting: Setting, seed: int) -> dict[str, float]:
    """What each way gains on one landscape."""
    ours, landscape = Ours(), Landscape(setting, seed)
    settings, gains = ours.settings(landscape, seed), {}
    for part in PARTS:
        course, known = ours.begin(landscape)
        ours.follow(landscape, STRATEGIES["CMA"](settings), course, known, part)
        before = landscape.held_out(ours.choose(course, landscape, part))
        for start, centre in _starts(course, landscape).items():
            for step in STEPS:
                local = CoordinateSearch(replace(settings, centre=centre, step=step))
                longer = copy.deepcopy(course)
                ours.follow(landscape, local, longer, list(known), BUDGET)
                after = landscape.held_out(ours.choose(longer, landscape, BUDGET))
                gains[f"after {part:,}, from the {start}, step {step}"] = after - before
    return gains


def _starts(course: Course, landscape: Landscape) -> dict[str, tuple[float, ...]]:
    ranked = course.ranked(BUDGET, first=len(landscape.starting_points()))
    points = [course.points[index] for index in ranked[:ELITES]]
    return {
        "best": tuple(points[0].tolist()),
        "mean": tuple(np.mean(points, axis=0).tolist()),
    }


if __name__ == "__main__":
    main()
