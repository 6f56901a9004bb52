"""Promise: what mattered in a search is told apart from what chance makes of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from planted import OBJECTIVE, PlantedExecutor, Silent, planted_genome

from evomerge.errors import RunError
from evomerge.reporting.importance import PENALTIES, fit, importance, shares
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

GENES = 6


def sample(count: int, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.random((count, GENES)), rng


def test_a_sum_of_quadratics_is_found_again() -> None:
    points, _ = sample(200)
    explained, parts = fit(points, 3 * points[:, 0] - (points[:, 2] - 0.5) ** 2)
    assert explained == pytest.approx(1.0, abs=0.01)
    assert parts.sum() == pytest.approx(1.0, abs=0.01)
    variances = 9 * points[:, 0].var(), ((points[:, 2] - 0.5) ** 2).var()
    assert parts[0] / parts[2] == pytest.approx(variances[0] / variances[1], rel=0.15)
    assert parts[[1, 3, 4, 5]].max() < 0.002


def squared_errors_unseen(features: np.ndarray, fitness: np.ndarray, penalty: float) -> float:
    """Of each candidate when it is predicted by a ridge regression on all others."""
    count, width = features.shape
    with_mean = np.hstack([np.ones((count, 1)), features])
    weighing = count * penalty * np.diag([0.0] + [1.0] * width)
    total = 0.0
    for left_out in range(count):
        seen = np.arange(count) != left_out
        x, y = with_mean[seen], fitness[seen]
        weights = np.linalg.solve(x.T @ x + weighing, x.T @ y)
        total += float(fitness[left_out] - with_mean[left_out] @ weights) ** 2
    return total


def test_what_is_explained_is_of_candidates_that_a_fit_has_not_seen() -> None:
    points, rng = sample(25)
    fitness = points[:, 0] + rng.normal(0, 0.1, 25)
    scaled = (points - points.mean(axis=0)) / points.std(axis=0)
    features = np.hstack([scaled, scaled**2])
    error = min(squared_errors_unseen(features, fitness, penalty) for penalty in PENALTIES)
    by_the_mean = squared_errors_unseen(features[:, :0], fitness, 1.0)
    assert fit(points, fitness)[0] == pytest.approx(1 - error / by_the_mean, rel=1e-9)


def test_more_genes_than_candidates_explain_nothing_of_pure_chance() -> None:
    rng = np.random.default_rng(0)
    points, fitness = rng.random((42, 90)), rng.normal(size=42)
    assert fit(points, fitness)[0] < 0.05
    found = shares(points, fitness, {"g": np.ones((1, 90))})["g"]
    assert found[0].value < 0.05
    assert not found[0].matters


def test_what_matters_is_marked_and_nothing_else() -> None:
    points, rng = sample(80)
    fitness = points[:, 1] - 2 * (points[:, 4] - 0.6) ** 2 + rng.normal(0, 0.15, 80)
    marked = [each.matters for each in shares(points, fitness, {"g": np.eye(GENES)})["g"]]
    assert marked[1]
    assert not any(marked[place] for place in (0, 2, 3, 5))


def test_of_pure_chance_at_most_one_search_in_ten_marks_anything() -> None:
    marked = 0
    for seed in range(30):
        points, rng = sample(40, seed)
        found = shares(points, rng.normal(size=40), {"g": np.eye(GENES)}, seed=seed)["g"]
        marked += any(each.matters for each in found)
    assert marked <= 3


def test_the_share_of_a_group_is_the_sum_of_its_genes() -> None:
    points, rng = sample(60)
    fitness = points @ np.arange(GENES) + rng.normal(0, 0.1, 60)
    members = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=float)
    found = shares(points, fitness, {"gene": np.eye(GENES), "half": members})
    values = [each.value for each in found["gene"]]
    assert found["half"][0].value == pytest.approx(sum(values[:3]))
    assert found["half"][1].value == pytest.approx(sum(values[3:]))
    assert sum(values) == pytest.approx(fit(points, fitness)[0])


def test_a_gene_that_was_never_varied_has_no_share() -> None:
    points, _ = sample(50)
    points[:, 3] = 0.5
    assert fit(points, points[:, 0])[1][3] == 0


def test_equal_scores_everywhere_depend_on_nothing() -> None:
    points, _ = sample(30)
    explained, parts = fit(points, np.full(30, 0.4))
    assert explained == 0
    assert not parts.any()


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
