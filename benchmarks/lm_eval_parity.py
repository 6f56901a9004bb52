"""Scores an exported winner with lm-eval's own command line, on a run's own search items.

    python benchmarks/lm_eval_parity.py RUN CHECKPOINT [--tasks TASK ...]

Exits with 1 if a score differs from the leaderboard's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from evomerge.reporting.leaderboard import find_row, leaderboard
from evomerge.store.database import RunStore


def main() -> None:
    """Print both scores of each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tasks", nargs="+")
    options = parser.parse_args()
    with closing(RunStore.open_for_reading(options.run / "run.sqlite")) as store:
        expected = find_row(leaderboard(store, options.run), "winner")["scores"]
        items = {entry.task: sorted(entry.search) for entry in store.items()}
        include = store.fact("recipe")["evaluation"]["include_path"]
    tasks = options.tasks or list(items)
    found = lm_eval(options.checkpoint, include, {task: items[task] for task in tasks})
    for task in tasks:
        scores = [v for k, v in found[task].items() if isinstance(v, float) and "stderr" not in k]
        print(f"{task}: leaderboard {expected[task]!r}, lm_eval {scores[0]!r}")
    if any(expected[task] not in found[task].values() for task in tasks):
        sys.exit(1)


def lm_eval(
    checkpoint: Path, include: str, samples: dict[str, list[int]]
) -> dict[str, dict[str, object]]:
    """The `results` of `lm_eval --model hf` in float32 on a CPU."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [
                *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"),
                *("--model_args", f"pretrained={checkpoint},dtype=float32"),
                *("--tasks", ",".join(samples), "--include_path", include),
                *("--samples", json.dumps(samples), "--batch_size", "16"),
                *("--output_path", out),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (file,) = Path(out).rglob("results_*.json")
        results: dict[str, dict[str, object]] = json.loads(file.read_text())["results"]
        return results


if __name__ == "__main__":
    main()
