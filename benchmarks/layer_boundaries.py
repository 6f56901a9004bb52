"""Candidates that differ in the top third of the layers only, with and without the layer cache.

    python benchmarks/layer_boundaries.py [--candidates 8] [--threads 1]

Both ways score the same candidates of the quickstart family in turns, in one process; scores must
be equal bit for bit. The first two candidates, which show the cache where others part, are left
out of the medians and in the totals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from evomerge.evaluation.backends.hf import HfBackend
from evomerge.evaluation.evaluator import ResidentEvaluator
from evomerge.evaluation.passes.boundaries import LayerBoundaries
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
from evomerge.live_model import load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe

FAMILY = Path("runs/quickstart-family")
TASKS = ("quickstart_words", "quickstart_python", "quickstart_french")
ITEMS = tuple(range(60))


def main() -> None:
    """Print one line per set of tasks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = SourceLibrary(FAMILY)
    base = library.model("base")
    model, tokenizer = load_model(base.folder, torch.float32, torch.device("cpu"))
    weights = ResidentWeights(named_weights(model, base.headers), library)
    for tasks in (TASKS[:2], TASKS):
        specs = [TaskSpec(name=task, include_path=str(FAMILY / "tasks")) for task in tasks]
        items = [TaskItems(task=task, search=ITEMS, held_out=ITEMS) for task in tasks]
        bare = HfBackend(model, tokenizer, 2048)
        plain = ResidentEvaluator(bare, specs, items)
        cached = ResidentEvaluator(HfBackend(model, tokenizer, 2048), specs, items)
        cached.prepare("search")
        plain.prepare("search")
        seconds: dict[str, list[float]] = {"cached": [], "plain": []}
        for number in range(options.candidates):
            weights.merge(candidate(number))
            bare.forward.boundaries = LayerBoundaries(model)  # knows nothing
            found = []
            for name, evaluator in (("plain", plain), ("cached", cached)):
                started = time.perf_counter()
                found.append(evaluator.evaluate("search"))
                seconds[name].append(time.perf_counter() - started)
            if found[0] != found[1]:
                raise SystemExit(f"candidate {number}: the cache changed a score")
        report(tasks, seconds)


def candidate(number: int) -> MergeRecipe:
    """A merge with a weight of its own in the top third, and none below."""
    rules: list[dict[str, Any]] = [{"value": 0.2 + number / 10, "layers": [20, 30]}, {"value": 0}]
    sources = [
        {"model": name, "parameters": {"weight": rules}}
        for name in ("expert-french", "expert-words", "base+expert-python")
    ]
    return MergeRecipe.model_validate(
        {"base": "base", "sources": sources, "operator": "task_arithmetic"}
    )


def report(tasks: tuple[str, ...], seconds: dict[str, list[float]]) -> None:
    """One line."""
    median = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    total = {name: sum(values) for name, values in seconds.items()}
    print(
        f"{len(tasks)} tasks: plain {median['plain']:.2f} s, cached {median['cached']:.2f} s, "
        f"{median['plain'] / median['cached']:.2f} times faster; over all candidates "
        f"{total['plain'] / total['cached']:.2f} times; scores equal",
        flush=True,
    )


if __name__ == "__main__":
    main()
