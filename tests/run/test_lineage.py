"""Promise: a model that was bred over generations is rebuilt from the original models alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from planted import PlantedExecutor, planted_search
from tiny_family import load_tensors

from evomerge.merging.ancestors import Ancestors
from evomerge.merging.engine import merge_tensor
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.digest import canonical_json, digest
from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.folder import RunFolder
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from evomerge.store.records import Entry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bred(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by Evolver of some generations."""
    folder = tmp_path_factory.mktemp("bred")
    recipe = write_recipe(folder, family, "Evolver")
    sets = ("--set", "search.candidates=40", "--set", "search.generation=3")
    done = run_cli("search", recipe, "--run", folder / "run", *sets)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture(scope="module")
def deepest(bred: Path) -> tuple[str, MergeRecipe]:
    """The candidate with the most ancestors, and its recipe."""
    with closing(RunStore.open_for_reading(RunFolder(bred).database)) as store:
        entries = [e for e in store.entries() if e.candidate.kind == "offspring"]
    recipes = [
        (e.candidate.digest, MergeRecipe.model_validate_json(e.candidate.recipe)) for e in entries
    ]
    return max(recipes, key=lambda each: each[1].depth)


def merged(recipe: MergeRecipe, library: SourceLibrary) -> dict[str, Tensor]:
    operands = library.operands(recipe)
    found = {}
    for job in operands.plan.jobs:
        found[job.name] = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(operands, job, found[job.name])
    return found


def test_a_lineage_grows_over_generations(deepest: tuple[str, MergeRecipe]) -> None:
    assert deepest[1].depth >= 3
    assert {source.model is None for source in deepest[1].sources} == {True, False} or all(
        source.recipe for source in deepest[1].sources
    )


def test_the_exported_recipe_has_the_same_digest_and_gives_the_same_bytes(
    bred: Path, deepest: tuple[str, MergeRecipe], tmp_path: Path
) -> None:
    wanted, recipe = deepest
    done = run_cli("export", bred, wanted[:12], "--to", "recipe", "--out", tmp_path / "r.yaml")
    assert done.code == 0, done.err
    again = load(MergeRecipe, tmp_path / "r.yaml")
    assert digest(again) == wanted == digest(recipe)
    done = run_cli("merge", tmp_path / "r.yaml", tmp_path / "model")
    assert done.code == 0, done.err
    as_worker = SourceLibrary(tmp_path, ancestors=Ancestors())
    for _ in range(2):  # the second time from what was kept
        expected = merged(recipe, as_worker)
        for name, tensor in load_tensors(tmp_path / "model").items():
            assert torch.equal(tensor, expected[name]), name


def test_every_weight_lies_between_those_of_the_original_models(
    deepest: tuple[str, MergeRecipe], family: Path
) -> None:
    recipe = deepest[1]
    found = merged(recipe, SourceLibrary(family))
    sources = list(_models(recipe))
    library = SourceLibrary(family)
    for name, tensor in found.items():
        # An adapter's sum with its base has more digits than what is stored.
        all_of = torch.stack([library.model(each).read(name).to(tensor.dtype) for each in sources])
        assert bool((tensor >= all_of.amin(0)).all()), name
        assert bool((tensor <= all_of.amax(0)).all()), name


def _models(recipe: MergeRecipe) -> set[str]:
    found = {source.model for source in recipe.sources if source.model}
    for inner in recipe.inner:
        found |= _models(inner)
    return found


def test_a_lineage_without_counterpart_in_mergekit_is_refused_in_one_line(
    bred: Path, deepest: tuple[str, MergeRecipe], tmp_path: Path
) -> None:
    done = run_cli(
        "export",
        bred,
        deepest[0][:12],
        "--to",
        "mergekit",
        "--out",
        tmp_path / "m.yaml",
    )
    assert done.code == 2
    assert "mergekit has no operator evolver" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_the_sources_are_answered_from_the_store(bred: Path) -> None:
    document = json.loads(run_cli("leaderboard", bred, "--json").out)
    assert sum(row["kind"] == "source" for row in document["candidates"]) == 3
    with closing(RunStore.open_for_reading(RunFolder(bred).database)) as store:
        first = [e for e in store.entries() if e.candidate.generation == 1]
        known = {e.candidate.digest: e for e in store.entries() if e.candidate.generation == 0}
    assert all(known[e.candidate.digest].outcome == e.outcome for e in first)


def test_one_source_cannot_breed(family: Path, tmp_path: Path) -> None:
    file = write_recipe(tmp_path, family, "Evolver")
    lines = [
        line for line in file.read_text().splitlines() if "/two" not in line and "lora" not in line
    ]
    file.write_text("\n".join(lines))
    done = run_cli("check", file)
    assert done.code == 2
    assert (
        "search.strategy: Evolver breeds models from models and needs at least 2 sources, found 1"
    ) in done.err


def test_the_textbook_s_trials_need_four_sources(family: Path, tmp_path: Path) -> None:
    done = run_cli("check", write_recipe(tmp_path, family, "EvolverDE"))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "search.strategy: EvolverDE breeds models from models and needs at least 4" in line


def test_a_run_that_holds_its_lineages_in_full_goes_on(tmp_path: Path) -> None:
    def search(file: Path, candidates: int) -> list[Entry]:
        return planted_search(
            file, PlantedExecutor(), "EvolverMean", candidates=candidates, generation=4
        )[0]

    file = tmp_path / "run"
    search(file, 20)
    with closing(sqlite3.connect(file)) as store, store:
        for number, text in store.execute("SELECT number, recipe FROM candidates").fetchall():
            recipe = MergeRecipe.model_validate_json(text)
            in_full = canonical_json(recipe.model_dump(mode="json", exclude_defaults=True))
            store.execute("UPDATE candidates SET recipe = ? WHERE number = ?", (in_full, number))
    again, whole = search(file, 40), search(tmp_path / "whole", 40)
    assert [e.candidate.digest for e in again] == [e.candidate.digest for e in whole]
    assert '"recipes"' in whole[19].candidate.recipe
    assert '"recipes"' not in again[19].candidate.recipe
