"""What searches find on planted landscapes, at equal item evaluations, against the peers.

    python benchmarks/search_quality.py --out runs/search-quality [--peers SITE_PACKAGES]

Every search has 20,000 item evaluations, 200 candidates on 100 search items (`--candidates` for
more or fewer), on the same landscapes (see `landscape.py`). Measured is the share of 3,000
held-out items that the chosen candidate solves: the median over seeds; the mean difference from
mergekit-evolve's, paired by seed, with a 95 % bootstrap interval; and the item evaluations after
which the median difference from mergekit-evolve's final score is at least 0. Ours choose as
`finish_search` does: the mean of the best offspring, unless the best candidate is better than it
by 1.96 standard errors; "by score" chooses the best candidate instead, and "soup" tries the greedy
soup of the best offspring in place of their mean, for which it searches less. Options vary our
searches, one thing at a time.

mergenetic's algorithms need pymoo: if the environment has none, name the folder of packages of one
that does.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import csv
import importlib.util
import multiprocessing
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from curves import draw
from landscape import SEARCH_ITEMS, SETTINGS, SMOOTH, Array, Landscape, Setting
from search_courses import Course, Ours, best_so_far, mergekit_evolve, mergenetic

from evomerge.recipe.search import Strategy as StrategyRecipe
from evomerge.search.choice import AUTO
from evomerge.search.strategies import BREEDERS, STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Choice = Callable[[Course, Landscape, int], Array]

CHECKPOINTS = 40
PEER = "mergekit-evolve"
WITHOUT_RACING, BY_SCORE, WITH_SOUP = ", no racing", ", by score", ", soup"
GA, NSGA2 = "mergenetic GA", "mergenetic NSGA-II"
POPULATIONS = (7, 20)
"""mergenetic's own, and one that suits a budget of 200 better."""
RESAMPLES = 10_000
BOLD = (StrategyRecipe().strategy, PEER)

Curve = list[float]
"""Held-out score of what is chosen at each checkpoint."""


def main() -> None:
    """Print one table per setting; write all scores and the curves."""
    options = _options()
    if options.peers:
        sys.path.append(str(options.peers))
    names = options.only or [
        *(STRATEGIES.keys() - BREEDERS.keys() - {AUTO}),  # which is one of the others
        PEER,
        *_mergenetics(),
        "generation zero",
    ]
    ours = Ours(
        generation=options.generation,
        step=options.step,
        elites=options.elites,
        confirm=options.confirm,
        steps=options.steps,
        noise=options.noise,
    )
    budget = options.candidates * SEARCH_ITEMS
    jobs = [
        (setting, seed)
        for setting in ((*SETTINGS, *SMOOTH) if options.setting else SETTINGS)
        if not options.setting or str(setting) in options.setting
        for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    work = partial(_all_searches, names=names, ours=ours, budget=budget)
    with multiprocessing.get_context("spawn").Pool(options.processes, _start, [sys.path]) as pool:
        measured: dict[tuple[Any, int], dict[str, list[float]]] = {}
        for job, curves in zip(jobs, pool.imap(work, jobs), strict=True):
            measured[job] = curves
            print(f"{len(measured)} of {len(jobs)} landscapes", end="\r", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    _write(options.out / "held_out.csv", budgets(budget), measured)
    report = []
    for setting in dict.fromkeys(setting for setting, _ in jobs):
        found = [curves for (where, _), curves in measured.items() if where == setting]
        together = {name: np.array([each[name] for each in found]) for name in found[0]}
        report.append(table(setting, budgets(budget), together))
        medians = {name: np.median(each, axis=0).tolist() for name, each in together.items()}
        picture = draw(f"dimension {setting}", budgets(budget), medians, BOLD)
        (options.out / f"{str(setting).replace(' ', '-')}.svg").write_text(picture)
    text = "\n\n".join(report)
    (options.out / "table.txt").write_text(text + "\n")
    print(text)


def budgets(budget: int) -> list[int]:
    """The item evaluations at which is looked what would be chosen."""
    return [budget * (index + 1) // CHECKPOINTS for index in range(CHECKPOINTS)]


def table(setting: Setting, spent: Sequence[int], curves: dict[str, Array]) -> str:
    """What was found in one setting.

    Args:
        setting: The setting.
        spent: The item evaluations of the checkpoints.
        curves: Of each search, held-out scores of shape `(seeds, checkpoints)`.
    """
    seeds = len(next(iter(curves.values())))
    lines = [
        f"dimension {setting}, {seeds} seeds",
        f"{'search':<34}held-out  minus {PEER}, 95 %       evaluations to reach it",
    ]
    target = curves[PEER][:, -1]
    for name, scores in sorted(curves.items(), key=lambda each: -np.median(each[1][:, -1])):
        low, mean, high = difference(scores[:, -1] - target)
        reached = np.median(scores - target[:, None], axis=0) >= 0
        first = f"{spent[int(reached.argmax())]:,}" if reached.any() else "never"
        lines.append(
            f"{name:<34}{np.median(scores[:, -1]):>8.3f}  "
            f"{mean:>+10.3f} [{low:+.3f}, {high:+.3f}]{first:>26}"
        )
    return "\n".join(lines)


def difference(differences: Array) -> tuple[float, float, float]:
    """The mean of paired differences, between the ends of its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(differences, size=(RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(differences.mean()), float(high)


def _all_searches(
    job: tuple[Setting, int], *, names: Sequence[str], ours: Ours, budget: int
) -> dict[str, Curve]:
    """The curves of all searches on one landscape."""
    setting, seed = job
    landscape = Landscape(setting, seed)
    curves = {}
    for name in names:
        if name in STRATEGIES:
            course = _our_course(ours, name, landscape, seed, budget)
            curves[name] = _curve(course, landscape, budgets(budget), ours.choose)
            if name == StrategyRecipe().strategy:
                credulous = replace(ours, doubt=False)
                curves[name + BY_SCORE] = _curve(
                    course, landscape, budgets(budget), credulous.choose
                )
                course = _our_course(replace(ours, racing=False), name, landscape, seed, budget)
                curves[name + WITHOUT_RACING] = _curve(
                    course, landscape, budgets(budget), ours.choose
                )
                stirring = replace(ours, soup=True)
                course = _our_course(stirring, name, landscape, seed, budget)
                curves[name + WITH_SOUP] = _curve(
                    course, landscape, budgets(budget), stirring.choose
                )
        else:
            course = _peer(name, landscape, seed, budget)
            curves[name] = _curve(
                course, landscape, budgets(budget), lambda c, _, b: best_so_far(c, b)
            )
    return curves


def _our_course(ours: Ours, name: str, landscape: Landscape, seed: int, budget: int) -> Course:
    settings = replace(ours.settings(landscape, seed), candidates=budget // SEARCH_ITEMS)
    return ours.search(landscape, STRATEGIES[name](settings), budget)


def _peer(name: str, landscape: Landscape, seed: int, budget: int) -> Course:
    if name == PEER:
        return mergekit_evolve(landscape, seed, budget)
    if name == "generation zero":
        return _our_course(Ours(elites=0), "random", landscape, seed, 0)
    kind, population = name.rsplit(" ", 1)
    objectives = 1 if kind == GA else 2
    return mergenetic(landscape, seed, budget, population=int(population), objectives=objectives)


def _curve(
    course: Course, landscape: Landscape, checkpoints: Sequence[int], choose: Choice
) -> Curve:
    """Held-out scores at the checkpoints; 0 before anything could be chosen."""
    scores: dict[bytes, float] = {}
    curve = []
    for budget in checkpoints:
        try:
            point = choose(course, landscape, budget)
        except (IndexError, ValueError):
            curve.append(0.0)
            continue
        key = point.tobytes()
        scores[key] = scores[key] if key in scores else landscape.held_out(point)
        curve.append(scores[key])
    return curve


def _mergenetics() -> list[str]:
    if importlib.util.find_spec("pymoo") is None:
        print("mergenetic's algorithms are skipped: there is no pymoo; see --peers")
        return []
    return [f"{kind} {population}" for kind in (GA, NSGA2) for population in POPULATIONS]


def _start(path: list[str]) -> None:
    sys.path[:] = path


def _write(
    file: Path, spent: Sequence[int], measured: dict[tuple[Setting, int], dict[str, Curve]]
) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["setting", "seed", "search", *spent])
        for (setting, seed), curves in measured.items():
            for name, curve in curves.items():
                writer.writerow([setting, seed, name, *(f"{score:.4f}" for score in curve)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path, help="folder of packages that has pymoo")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--setting", nargs="+", choices=[str(each) for each in (*SETTINGS, *SMOOTH)]
    )
    parser.add_argument("--only", nargs="+", help="searches; mergekit-evolve must be among them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--generation", type=int, default=Ours().generation)
    parser.add_argument("--step", type=float)
    parser.add_argument("--elites", type=int, default=Ours().elites)
    parser.add_argument("--confirm", type=int, default=Ours().confirm)
    parser.add_argument("--steps", type=float, default=0.0, help="power of known curvatures")
    parser.add_argument("--noise", type=float, default=0.0, help="of what is known of them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
