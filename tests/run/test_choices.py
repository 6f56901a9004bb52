"""A search that chooses operators and sources finds the right ones and says so in words."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from planted import OBJECTIVE, TENSOR, Crash, PlantedExecutor, Silent, evaluated

from evomerge.cli.console import choices_in_words
from evomerge.genome.build import build_genome
from evomerge.genome.genes import OPERATOR
from evomerge.layout import Place
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.space import GenomeSpace
from evomerge.reporting.importance import importance
from evomerge.reporting.leaderboard import leaderboard
from evomerge.run.finish.finalists import ELITE_MEAN
from evomerge.run.finish.finish import finish_search
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES, build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.recipe.search import StrategyName

GENOME = build_genome(
    base="base",
    sources=[Source(model=name, name=name) for name in ("a", "b", "c")],
    space=GenomeSpace(
        operator=("task_arithmetic", "ties", "dare_ties", "slerp"),
        layer_groups=1,
        drop_sources=True,
        post="aim",
    ),
    calibration=CalibrationSettings(texts="texts.txt"),
    tensors=[TENSOR.format(layer) for layer in range(4)],
    dtype="base",
    seed=0,
)

RIGHT = {"operator": "ties", "dropped": ["b"], "post": None}


def score(recipe: MergeRecipe) -> float:
    """Best is ties of a and c, with weights of 0.7 and nothing done to it."""
    cost = 0.1 if recipe.sources[0].recipe else 0.0
    recipe = recipe.sources[0].recipe or recipe
    weights = [
        recipe.setting("weight", TENSOR.format(0), Place(0, "mlp"), source)  # type: ignore[arg-type]
        for source in recipe.sources
    ]
    away = sum((w - 0.7) ** 2 for w in weights if w is not None) / len(weights)
    names = [source.label for source in recipe.sources]
    wrong = len({"a", "c"} ^ {*names})
    return 1 - cost - 0.2 * (recipe.operator != "ties") - 0.1 * wrong - away


@dataclass
class Choosy(PlantedExecutor):
    """Scores operators and sources, too."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, _ in super().run(jobs):
            yield job, evaluated(score(job.recipe))


def search(
    file: Path, name: StrategyName = "GA", candidates: int = 160, crash_after: int | None = None
) -> RunStore:
    """Search in a store, or go on there, and finish."""
    settings = StrategySettings(
        dimension=len(GENOME.genes), generation=8, seed=1, genes=GENOME.genes, sources=3
    )
    if file.exists():
        store = RunStore.open_for_writing(file)
    else:
        store = RunStore.create(file)
        facts = {"weights": {"planted": 1.0}, "higher_is_better": {"planted": True}}
        store.write_facts(facts | {"genes": GENOME.labels()})
    loop = SearchLoop(
        genome=GENOME,
        strategy=build_strategy(name, settings),
        objective=OBJECTIVE,
        executor=Choosy(crash_after=crash_after),
        store=store,
        progress=Silent(),
    )
    try:
        loop.run(candidates, 8)
    except Crash:
        store.close()
        raise
    finish_search(store, Choosy(), OBJECTIVE, Silent(), GENOME)
    return store


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStore]:
    with closing(search(tmp_path_factory.mktemp("run") / "s")) as store:
        yield store


def test_the_best_candidates_have_the_right_operator_and_sources(
    searched: RunStore, tmp_path: Path
) -> None:
    rows = leaderboard(searched, tmp_path)["candidates"]
    assert [row["choices"] for row in rows[:3]] == [RIGHT] * 3
    assert rows[0]["search_score"] > 0.99


def test_the_elite_mean_chooses_what_the_elites_do(searched: RunStore, tmp_path: Path) -> None:
    rows = leaderboard(searched, tmp_path)["candidates"]
    (mean,) = [row for row in rows if row["name"] == ELITE_MEAN]
    assert mean["choices"] == RIGHT
    (entry,) = [e for e in searched.entries() if e.candidate.name == ELITE_MEAN]
    chosen = [
        coordinate
        for gene, coordinate in zip(GENOME.genes, entry.candidate.genotype or (), strict=True)
        if gene.choices
    ]
    assert chosen == [0.375, 0.75, 0.25, 0.75, 0.25]


def test_parents_are_the_sources_that_take_part(searched: RunStore, tmp_path: Path) -> None:
    rows = leaderboard(searched, tmp_path)["candidates"]
    ids = {row["name"]: row["candidate"] for row in rows if row["kind"] == "source"}
    assert len(ids) == 3
    for row in rows:
        if row["kind"] == "offspring" and row["name"] is None:
            kept = [name for name in ids if name not in row["choices"]["dropped"]]
            assert {*row["parents"]} == {ids[name] for name in kept}


def test_importance_tells_choices_apart_in_words(searched: RunStore) -> None:
    document = importance(searched)
    assert document["groups"]["parameter"]["operator"]["matters"]
    operator, *presences, post = [gene for gene in document["genes"] if "choices" in gene]
    assert [choice["choice"] for choice in post["choices"]] == ["nothing", "aim"]
    assert operator["parameter"] == OPERATOR
    best = max(operator["choices"], key=lambda choice: choice["best"])
    assert best["choice"] == "ties"
    assert sum(choice["candidates"] for choice in operator["choices"]) == document["candidates"]
    assert [gene["source"] for gene in presences] == ["a", "b", "c"]
    dropped, kept = presences[1]["choices"]
    assert (dropped["choice"], kept["choice"]) == ("no", "yes")
    assert dropped["best"] > kept["best"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({}, ""),
        ({"operator": "ties"}, "ties"),
        ({"operator": "ties", "dropped": ["b"]}, "ties, without b"),
        ({"dropped": ["b", "c"]}, "without b and c"),
        ({"dropped": []}, "all sources"),
        ({"dropped": [], "post": None}, "all sources"),
        ({"operator": "ties", "dropped": ["b"], "post": "aim"}, "ties, without b, then aim"),
    ],
)
def test_choices_in_words(choices: dict[str, object], words: str) -> None:
    assert choices_in_words(choices) == words


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - BREEDERS.keys()))
def test_every_strategy_searches_a_space_of_choices_and_resumes(
    tmp_path: Path, name: StrategyName
) -> None:
    with closing(search(tmp_path / "whole", name, 64)) as store:
        expected = store.entries()
    with suppress(Crash):
        search(tmp_path / "cut", name, 64, crash_after=23).close()
    with closing(search(tmp_path / "cut", name, 64)) as store:
        assert store.entries() == expected
    points = [e.candidate.genotype for e in expected if e.candidate.genotype]
    assert len({GENOME.operator(point) for point in points}) > 1
    assert len({GENOME.taken(point) for point in points}) > 1
    assert {GENOME.post(point) for point in points} == {None, "aim"}
