"""Search, genome and store know nothing of models, and do not load what does."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "transformers", "lm_eval"}
REPORT = "import sys; print(*sorted(set(sys.modules)))"
BUILD = """
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import build_strategy
strategy = build_strategy({name!r}, StrategySettings(dimension=2, generation=4, seed=0))
strategy.tell([Result(fitness=0.0)] * len(strategy.ask(4)))
"""


def _loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["evomerge.search.strategies", "evomerge.genome.genome", "evomerge.store.database"],
)
def test_importing_it_loads_no_heavy_library(module: str) -> None:
    loaded = _loaded_after(f"import {module}")
    assert module in loaded
    assert loaded & (HEAVY | {"nevergrad", "scipy"}) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), [("CMA", "nevergrad"), ("Sobol", "scipy")])
def test_running_a_strategy_loads_its_library_and_nothing_heavier(name: str, library: str) -> None:
    loaded = _loaded_after(BUILD.format(name=name))
    assert library in loaded
    assert loaded & HEAVY == set()
