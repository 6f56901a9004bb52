"""Candidates per hour of a run, and where their time went.

    python benchmarks/throughput.py RUN

Steady state is from the first outcome of generation 1 to the last one: starting Ray, loading
models and tokenising are left out, waiting for the slowest of a generation is not.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
from contextlib import closing
from datetime import datetime
from pathlib import Path

QUERY = """
    SELECT told_at, merge_s, forward_s, total_s FROM outcomes
    JOIN candidates ON number = candidate
    WHERE generation > 0 AND total_s IS NOT NULL ORDER BY told_at
"""


def main() -> None:
    """Print the figures of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    file = parser.parse_args().run / "run.sqlite"
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
        rows = store.execute(QUERY).fetchall()
    told = [datetime.fromisoformat(row[0]) for row in rows]
    hours = (told[-1] - told[0]).total_seconds() / 3600
    shares = [forward / total for _, _, forward, total in rows]
    print(f"{len(rows)} offspring, {(len(rows) - 1) / hours:.0f} candidates/h in steady state")
    for name, column in (("merge", 1), ("forward", 2), ("total", 3)):
        seconds = [row[column] for row in rows]
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{name:<8} {middle:6.2f} s (min {low:.2f}, max {high:.2f})")
    print(f"forward passes: {statistics.median(shares):.1%} of a candidate's wall time (median)")


if __name__ == "__main__":
    main()
