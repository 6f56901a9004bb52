"""One candidate after the other, scored by each backend: the scores, and what they cost.

Run once for every backend, with OMP_NUM_THREADS=1 and a family built by `make quickstart`:
    python benchmarks/backends.py FAMILY --backend vllm
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
from evomerge.executors.contract import Job
from evomerge.executors.worker import Worker, WorkerSettings
from evomerge.recipe.merge import MergeRecipe

TASKS = ("quickstart_words", "quickstart_python", "quickstart_french")
ITEMS = tuple(range(60))


def main() -> None:
    """Print a line per task and candidate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", type=Path)
    parser.add_argument("--backend", choices=("hf", "vllm"), required=True)
    parser.add_argument("--candidates", type=int, default=3)
    options = parser.parse_args()
    for task in TASKS:
        started = time.process_time()
        worker = make_worker(options.family.resolve(), task, options.backend)
        print(f"{task}: ready after {time.process_time() - started:.1f} CPU s", flush=True)
        for number in range(options.candidates):
            started = time.process_time()
            outcome = worker.evaluate(
                Job(number=number, recipe=candidate(number / 8), split="search")
            )
            spent = time.process_time() - started
            if not isinstance(outcome, Evaluated):
                raise SystemExit(outcome.reason)
            (score,) = outcome.scores
            print(f"  {number}: {score.score:.4f} {spent:.2f} CPU s", flush=True)


def make_worker(family: Path, task: str, backend: str) -> Worker:
    """A worker with one thread, for one task."""
    return Worker(
        WorkerSettings(
            root=str(family),
            base="base",
            tasks=[TaskSpec(name=task, include_path=str(family / "tasks"))],
            items=[TaskItems(task=task, search=ITEMS, held_out=ITEMS)],
            rungs=(),
            batch_tokens=2048,
            dtype="float32",
            device="cpu",
            threads=1,
            backend=backend,  # type: ignore[arg-type]
        )
    )


def candidate(weight: float) -> MergeRecipe:
    """A sum of task vectors."""
    names = ("expert-french", "expert-words", "base+expert-python")
    return MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": [{"model": name} for name in names],
            "operator": "task_arithmetic",
            "parameters": {"weight": weight},
        }
    )


if __name__ == "__main__":
    main()
