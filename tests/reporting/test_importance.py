"""Promise: a run is told by what its scores depended on."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from planted import OBJECTIVE, PlantedExecutor, Silent, planted_genome

from evomerge.errors import RunError
from evomerge.reporting.importance import importance
from evomerge.run.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path


def run(file: Path, candidates: int) -> RunStore:
    genome = planted_genome()
    settings = StrategySettings(dimension=len(genome.genes), generation=8, seed=0)
    store = RunStore.create(file)
    facts = {"weights": {"planted": 1.0}, "higher_is_better": {"planted": True}}
    store.write_facts(facts | {"genes": genome.labels()})
    SearchLoop(
        genome=genome,
        strategy=build_strategy("random", settings),
        objective=OBJECTIVE,
        executor=PlantedExecutor(),
        store=store,
        progress=Silent(),
    ).run(candidates, 8)
    return store


def test_a_run_is_told_by_gene_source_and_layers(tmp_path: Path) -> None:
    with closing(run(tmp_path / "s", 60)) as store:
        document = importance(store)
    assert document["candidates"] == 54
    assert document["explained"] > 0.95
    assert [(g["source"], g["layers"]) for g in document["genes"]] == [
        *(("a", "0-1"), ("a", "2-3")),
        *(("b", "0-1"), ("b", "2-3")),
    ]
    assert document["groups"].keys() == {"source", "layers"}
    assert all(each["matters"] for each in document["groups"]["source"].values())


def test_too_few_candidates_are_counted(tmp_path: Path) -> None:
    with closing(run(tmp_path / "s", 20)) as store, pytest.raises(RunError, match="14 offspring"):
        importance(store)


def test_a_run_without_a_list_of_genes_is_of_an_older_version(tmp_path: Path) -> None:
    with (
        closing(RunStore.create(tmp_path / "s")) as store,
        pytest.raises(RunError, match="kept no list of its genes"),
    ):
        importance(store)
