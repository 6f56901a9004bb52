"""Promise: a model that was bred over generations is rebuilt from the original models alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import count, islice
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from planted import PlantedExecutor, planted_search
from tiny_family import load_tensors

from evomerge.merging.ancestors import Ancestors
from evomerge.merging.engine import merge_tensor
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.digest import canonical_json, digest
from evomerge.recipe.lineage import ancestry
from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe
from evomerge.run.folder import RunFolder
from evomerge.search.contract import Breeding
from evomerge.search.niches import WARM_UP
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from evomerge.search.contract import Result
    from evomerge.store.records import Candidate, Entry

pytestmark = pytest.mark.slow


SOURCES, GENERATION = 3, 3
SUITS = ("red", "green", "blue")
THINGS = ("cat", "dog", "bird", "sun", "moon", "sea", "one")


def search(folder: Path, family: Path, strategy: str, candidates: int = 40) -> Path:
    """A search by a text: how well it is predicted changes with every child, if only a little."""
    recipe = write_recipe(folder, family, strategy)
    text = folder / "lines.txt"
    text.write_text("".join(f"{suit} {thing}\n" for suit in SUITS for thing in THINGS))
    sets = (
        f"evaluation.tasks=[{{name: lines, text: {text}}}]",
        f"search.candidates={candidates}",
        f"search.generation={GENERATION}",
    )
    pairs = [argument for each in sets for argument in ("--set", each)]
    done = run_cli("search", recipe, "--run", folder / "run", *pairs)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture(scope="module")
def bred(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by Evolver of some generations."""
    return search(tmp_path_factory.mktemp("bred"), family, "Evolver")


def winner_of(run: Path) -> tuple[str, MergeRecipe]:
    """The winner's digest, and its recipe."""
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        wanted = store.fact("verdict")["winner"]
        recipes = {e.candidate.digest: e.candidate.recipe for e in store.entries()}
    return wanted, MergeRecipe.model_validate_json(recipes[wanted])


@pytest.fixture(scope="module")
def winner(bred: Path) -> tuple[str, MergeRecipe]:
    return winner_of(bred)


def merged(recipe: MergeRecipe, library: SourceLibrary) -> dict[str, Tensor]:
    operands = library.operands(recipe)
    found = {}
    for job in operands.plan.jobs:
        found[job.name] = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(operands, job, found[job.name])
    return found


def originals(family: Path) -> set[str]:
    """The sources of a search, as its recipes name them."""
    return {str(family / "one"), str(family / "two"), f"{family / 'base'}+{family / 'lora'}"}


def assert_same_bytes(model: Path, recipe: MergeRecipe, library: SourceLibrary) -> None:
    expected, found = merged(recipe, library), load_tensors(model)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def last_of(run: Path) -> Candidate:
    """The last candidate that was proposed."""
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        return [e.candidate for e in store.entries() if e.candidate.kind == "offspring"][-1]


def export(run: Path, form: str, out: Path, candidate: str = "winner") -> Path:
    done = run_cli("export", run, candidate[:12], "--to", form, "--out", out)
    assert done.code == 0, done.err
    return out


def merge(file: Path, out: Path) -> Path:
    done = run_cli("merge", file, out)
    assert done.code == 0, done.err
    return out


def test_the_winner_is_several_generations_deep(winner: tuple[str, MergeRecipe]) -> None:
    recipe = winner[1]
    assert recipe.depth >= 4
    assert {each.operator for each in (recipe, *ancestry([recipe]))} == {"evolver"}


def test_the_winner_is_rebuilt_from_the_original_models_alone(
    bred: Path, winner: tuple[str, MergeRecipe], family: Path, tmp_path: Path
) -> None:
    wanted, recipe = winner
    again = load(MergeRecipe, export(bred, "recipe", tmp_path / "r.yaml"))
    assert digest(again) == wanted == digest(recipe)
    assert _models(again) <= originals(family)
    as_worker = SourceLibrary(tmp_path, ancestors=Ancestors())
    assert_same_bytes(merge(tmp_path / "r.yaml", tmp_path / "merged"), recipe, as_worker)
    # Now the ancestors are those that were kept.
    assert_same_bytes(export(bred, "checkpoint", tmp_path / "exported"), recipe, as_worker)


def test_a_winner_of_niches_is_one_merge_of_the_original_models(
    family: Path, tmp_path: Path
) -> None:
    run = search(tmp_path, family, "M2N2")
    wanted, recipe = winner_of(run)
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        known = [e.candidate for e in store.entries() if e.candidate.digest == wanted]
    assert known[0].number < 0 or known[0].generation > WARM_UP / GENERATION
    again = load(MergeRecipe, export(run, "recipe", tmp_path / "r.yaml"))
    assert digest(again) == wanted == digest(recipe)
    assert (again.depth, _models(again)) == (1, originals(family))
    assert_same_bytes(merge(tmp_path / "r.yaml", tmp_path / "m"), recipe, SourceLibrary(tmp_path))


class Arcs:
    """Breeds by an operator of mergekit's: each child goes towards a source, the next from there.

    No strategy of ours does: what `Evolver` breeds with is not mergekit's, and averages of
    averages, which `Kinship` makes, are averages of the sources.
    """

    def __init__(self) -> None:
        self._numbers = count(SOURCES)

    def ask(self, wanted: int) -> list[Breeding]:
        return [
            Breeding(
                operator="slerp",
                parents=(number - 1, number % SOURCES),
                parameters={"t": 1 / number},
            )
            for number in islice(self._numbers, wanted)
        ]

    def tell(self, results: Sequence[Result]) -> None:
        pass


def test_a_lineage_of_arcs_is_a_mergekit_document_for_each_merge_and_makes_the_same_bytes(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.run.search.strategy_of", lambda *_: Arcs())
    run = search(tmp_path, family, "random", candidates=12)
    last = last_of(run)
    recipe = MergeRecipe.model_validate_json(last.recipe)
    assert recipe.depth == 5
    file = export(run, "mergekit", tmp_path / "m.yaml", last.digest)
    methods = [each.data["merge_method"] for each in yaml.parse_all(file.read_text(), "m.yaml")]
    assert methods == ["slerp"] * 5
    assert_same_bytes(merge(file, tmp_path / "m"), recipe, SourceLibrary(tmp_path))


def test_averages_of_averages_are_one_document_for_mergekit_with_the_same_bytes(
    family: Path, tmp_path: Path
) -> None:
    run = search(tmp_path, family, "Kinship")
    last = last_of(run)
    recipe = MergeRecipe.model_validate_json(last.recipe)
    assert {source.parameters.get("weight") for source in recipe.sources} == {0.5, 0.25}
    file = export(run, "mergekit", tmp_path / "m.yaml", last.digest)
    assert len(yaml.parse_all(file.read_text(), "m.yaml")) == 1
    assert_same_bytes(merge(file, tmp_path / "m"), recipe, SourceLibrary(tmp_path))


def test_every_weight_lies_between_those_of_the_original_models(
    winner: tuple[str, MergeRecipe], family: Path
) -> None:
    recipe = winner[1]
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
    bred: Path, winner: tuple[str, MergeRecipe], tmp_path: Path
) -> None:
    done = run_cli(
        "export",
        bred,
        winner[0][:12],
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
