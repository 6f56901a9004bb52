"""How long merging into a resident model takes, against reading its inputs and writing its output.

    python benchmarks/merge_speed.py --base FOLDER --source FOLDER ... [--threads 1 2]

`benchmarks/merge_throughput.py --build small` makes a family of random weights to try it on.

The floor reads every input tensor once and writes every output tensor once, in blocks that stay
in the cache, with the same threads. Each figure is the median of several rounds, floor and merges
taking turns, so that a machine that slows down slows both. Before that, loops are compiled and
first passes made; weights change from round to round, densities do not.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.cache import cache_folder
from evomerge.merging.derived import DerivedTensors
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

BLOCK = 1 << 18
"""Entries touched at a time: few enough for the cache, enough for several threads."""

SETTINGS = {
    "linear": {},
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 0.4, "density": 0.5},
    "dare_linear": {"weight": 0.4, "density": 0.5},
    "dare_ties": {"weight": 0.4, "density": 0.5},
    "della": {"weight": 0.4, "density": 0.5, "epsilon": 0.1},
}

WARM_UP = 3
"""Rounds that are not counted."""


def main() -> None:
    """Print one line per operator and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operator", nargs="+", choices=SETTINGS, default=["task_arithmetic"])
    arguments = parser.parse_args()
    library = SourceLibrary(Path.cwd(), derived=DerivedTensors(cache_folder("derived")))
    print("operator          threads   floor s   merge s   ratio")
    for operator in arguments.operator:
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            floor, merge = measure(library, arguments, operator)
            print(f"{operator:<18}{threads:>7}{floor:>10.3f}{merge:>10.3f}{merge / floor:>8.1f}")


def measure(
    library: SourceLibrary, arguments: argparse.Namespace, operator: str
) -> tuple[float, float]:
    """Median seconds of the floor and of a merge."""
    sources = tuple(Source(model=reference) for reference in arguments.source)
    signatures = library.signatures(arguments.base)
    live = {name: torch.empty(shape) for name, (_, shape) in signatures.items()}
    weights = ResidentWeights(live, library)
    inputs = [library.model(r) for r in (arguments.base, *arguments.source)]
    floors, merges = [], []
    for number in range(arguments.rounds + WARM_UP):
        # Another weight each time, or nothing would have to be done.
        changed = dict(SETTINGS[operator])
        if "weight" in changed:
            changed["weight"] *= 1 - 0.01 * number
        recipe = MergeRecipe(
            base=arguments.base, sources=sources, operator=operator, parameters=changed
        )
        floors.append(timed(lambda: touch([c.read for c in inputs], live)))
        merges.append(timed(functools.partial(weights.merge, recipe)))
        if operator == "linear":
            weights = ResidentWeights(live, library)
    return statistics.median(floors[WARM_UP:]), statistics.median(merges[WARM_UP:])


def touch(reads: Sequence[Callable[[str], Tensor]], outputs: dict[str, Tensor]) -> None:
    """Read every input once and write every output once."""
    written = torch.zeros(BLOCK)
    for name, output in outputs.items():
        for read in reads:
            flat = read(name).view(-1)
            buffer = torch.empty(min(BLOCK, flat.numel()), dtype=flat.dtype)
            for part in torch.split(flat, BLOCK):
                buffer[: part.numel()].copy_(part)
        for part in torch.split(output.view(-1), BLOCK):
            part.copy_(written[: part.numel()])


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
