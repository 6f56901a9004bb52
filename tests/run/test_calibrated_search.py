"""A search may use operators that measure models on texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from command_line import run_cli, write_recipe
from tiny_family import load_tensors

from evomerge.cli.console import choices_in_words
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.registry import find_operator
from evomerge.recipe.load import load
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.ranges import Bounds
from evomerge.recipe.search import SearchRecipe
from evomerge.recipe.space import GenomeSpace
from evomerge.run.preparation.prepare import check_search
from evomerge.sensitivity.provider import Calibrator, RecipeStatistics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recipe(tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search recipe for Fisher merging, with texts beside it."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("red cat dog\nsun and moon\n")
    file = write_recipe(tmp_path, family)
    text = file.read_text().replace("genome: {", "genome: {operator: fisher, ")
    file.write_text(text + "calibration: {texts: texts.txt, samples: 2}\n")
    return file


def test_candidates_are_merged_with_what_is_measured(recipe: Path, tmp_path: Path) -> None:
    done = run_cli("search", recipe, "--run", tmp_path / "run", "--set", "search.candidates=8")
    assert done.code == 0, done.err
    shown = run_cli("leaderboard", tmp_path / "run", "--json")
    assert '"operator": "fisher"' in shown.out
    assert '"status": "failed"' not in shown.out
    assert len(list((tmp_path / "cache" / "statistics").glob("fisher-*"))) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "operator"), [("EvolverFisher", "fisher"), ("EvolverRegMean", "regmean")]
)
def test_populations_are_merged_with_what_is_measured_of_their_sources(
    strategy: str, operator: str, family: Path, recipe: Path, tmp_path: Path
) -> None:
    text = recipe.read_text().replace("operator: fisher, ", "").replace("random", strategy)
    recipe.write_text(text)
    run = tmp_path / "run"
    done = run_cli("search", recipe, "--run", run, "--set", "search.candidates=14")
    assert done.code == 0, done.err
    rows = json.loads(run_cli("leaderboard", run, "--json").out)["candidates"]
    bred = [row for row in rows if row["kind"] == "offspring" and row["number"] >= 0]
    assert len(bred) == 7
    assert {row["status"] for row in bred} <= {"evaluated", "stopped"}
    assert {row["recipe"]["operator"] for row in bred} == {operator}
    measured = [
        source["measured_as"]
        for row in bred
        for source in row["recipe"]["sources"]
        if "measured_as" in source
    ]
    # One child in each, but for the merge of the sources.
    assert len(measured) >= len(bred) - 1
    sources = {f"{family}/one", f"{family}/two", f"{family}/base+{family}/lora"}
    assert {*measured} <= sources
    # Of children nothing is measured.
    kind = "gram" if operator == "regmean" else operator
    kept = (tmp_path / "cache" / "statistics").glob(f"{kind}-*")
    assert sum(each.is_dir() for each in kept) == len(sources)
    for kind, out in (("recipe", tmp_path / "one.yaml"), ("checkpoint", tmp_path / "one")):
        wanted = ("export", run, bred[-1]["candidate"], "--to", kind, "--out", out)
        assert run_cli(*wanted).code == 0
    assert run_cli("merge", tmp_path / "one.yaml", tmp_path / "again").code == 0
    first, second = (load_tensors(tmp_path / name) for name in ("one", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calibration:", "#", "calibration: is missing; fisher needs the fisher and fisher_norm"),
        ("texts: texts.txt", "texts: {one: texts.txt}", "calibration.texts: has no file for two"),
    ],
    ids=["no texts", "texts of one source"],
)
def test_a_population_that_cannot_be_measured_is_refused_before_the_search(
    old: str, new: str, message: str, recipe: Path, tmp_path: Path
) -> None:
    text = recipe.read_text().replace("operator: fisher, ", "").replace("random", "EvolverFisher")
    recipe.write_text(text.replace(old, new))
    errors = check_search(load(SearchRecipe, recipe), tmp_path).errors
    assert {error.where for error in errors} == {"search.strategy"}
    assert errors[0].message.startswith(message)


@pytest.mark.slow
def test_temperatures_of_sens_merging_are_searched_by_orders_of_magnitude(
    recipe: Path, tmp_path: Path
) -> None:
    text = recipe.read_text().replace(
        "genome: {operator: fisher, ",
        "genome: {operator: sens_merging, shared: {temperature: [layers, components]}, "
        "ranges: {temperature: {low: 0.01, high: 3, log: true}}, ",
    )
    recipe.write_text(text)
    done = run_cli("search", recipe, "--run", tmp_path / "run", "--set", "search.candidates=20")
    assert done.code == 0, done.err
    rows = json.loads(run_cli("leaderboard", tmp_path / "run", "--json").out)["candidates"]
    bred = [row for row in rows if row["kind"] == "offspring"]
    found = sorted(row["recipe"]["parameters"]["temperature"] for row in bred)
    assert all(row["status"] != "failed" for row in bred)
    assert 0.01 <= found[0] < 0.1
    assert 0.3 < found[-1] <= 3
    out = tmp_path / "one.yaml"
    wanted = ("export", tmp_path / "run", bred[0]["candidate"], "--to", "recipe", "--out", out)
    assert run_cli(*wanted).code == 0
    assert find_operator(load(MergeRecipe, out).operator).name == "sens_merging"


@pytest.mark.slow
def test_a_space_of_choices_is_searched_shown_and_exported(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace(
        "genome: {operator: fisher, layer_groups: 2,",
        "genome: {operator: [ties, dare_linear, fisher], drop_sources: true, post: aim, "
        "layer_groups: each, shared: {density: [sources, layers]}, ranges: {omega: [0.2, 0.6]},",
    )
    recipe.write_text(text)
    run = tmp_path / "run"
    wanted = {"search.candidates": 36, "search.strategy": "GA"}
    settings = [part for key, value in wanted.items() for part in ("--set", f"{key}={value}")]
    done = run_cli("search", recipe, "--run", run, *settings)
    assert done.code == 0, done.err
    rows = json.loads(run_cli("leaderboard", run, "--json").out)["candidates"]
    assert {row["status"] for row in rows} <= {"evaluated", "stopped"}
    bred = [row for row in rows if row["choices"]]
    assert {row["choices"]["operator"] for row in bred} == {"ties", "dare_linear", "fisher"}
    assert {row["choices"]["post"] for row in bred} == {None, "aim"}
    (row, *_) = [r for r in bred if r["choices"]["dropped"] and r["choices"]["post"]]
    words = choices_in_words(row["choices"])
    assert f"choices     {words}\n" in run_cli("show", run, row["candidate"]).out
    assert words in run_cli("leaderboard", run).out
    assert "by operator: candidates, their mean score and the best" in (
        run_cli("importance", run).out
    )
    for kind, out in (("recipe", tmp_path / "one.yaml"), ("checkpoint", tmp_path / "one")):
        exported = run_cli("export", run, row["candidate"], "--to", kind, "--out", out)
        assert exported.code == 0, exported.err
    assert run_cli("merge", tmp_path / "one.yaml", tmp_path / "again").code == 0
    first, second = (load_tensors(tmp_path / name) for name in ("one", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("temperature", "layer", "shares"),
    [
        (1.0, 0, (0.708687, 1.291313)),
        (1.0, 1, (1.099668, 0.900332)),
        (0.1, 0, (0.004945, 1.995055)),
        (0.1, 1, (1.761594, 0.238406)),
    ],
)
def test_a_searched_candidate_is_merged_with_shares_computed_by_hand(
    temperature: float,
    layer: int,
    shares: tuple[float, float],
    family: Path,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sensitivities [3, 4] and [1, 0] of two layers, sums of differing logits 2 and 6."""

    def statistic(_: object, kind: str, source: int | None, name: str) -> torch.Tensor:
        if kind == "distance":
            return torch.tensor([[0.0, 2.0], [6.0, 0.0]][source or 0])
        first, second = [[3.0, 4.0], [1.0, 0.0]][source or 0]
        return torch.tensor([second, first] if ".layers.1." in name else [first, second])

    monkeypatch.setattr(RecipeStatistics, "__call__", statistic)
    root = recipe.parent
    search = load(SearchRecipe, recipe).model_copy(
        update={
            "sources": (Source(model=f"{family}/one"), Source(model=f"{family}/two")),
            "dtype": "float32",
            "genome": GenomeSpace(
                operator="sens_merging",
                layer_groups=1,
                ranges={"temperature": Bounds(low=0.1, high=10.0, log=True)},
            ),
        }
    )
    prepared = check_search(search, root).search
    assert prepared is not None
    assert [gene.parameter for gene in prepared.genome.genes] == [
        "weight",
        "weight",
        "temperature",
    ]
    candidate = prepared.genome.decode((1.0, 0.5, 0.5 if temperature == 1 else 0.0))
    library = SourceLibrary(root, calibrate=Calibrator(device="cpu"))
    export_checkpoint(candidate, library, root / "merged")
    name = f"model.layers.{layer}.mlp.up_proj.weight"
    base, one, two, found = (
        library.model(model).read(name).float()
        for model in (f"{family}/base", f"{family}/one", f"{family}/two", str(root / "merged"))
    )
    expected = base + shares[0] * 1.0 * (one - base) + shares[1] * 0.5 * (two - base)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_paths_of_texts_start_from_the_recipe_and_their_content_is_remembered(
    recipe: Path, tmp_path: Path
) -> None:
    def identity() -> str:
        found = check_search(load(SearchRecipe, recipe), tmp_path)
        assert found.search is not None
        assert found.search.genome.decode([0.5] * len(found.search.genome.genes)).calibration == (
            found.search.recipe.calibration
        )
        return found.search.identities[str(tmp_path / "texts.txt")]

    before = identity()
    assert identity() == before
    (tmp_path / "texts.txt").write_text("something else\n")
    assert identity() != before


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("texts.txt", "nothing.txt", "calibration", "nothing.txt: cannot be read"),
        ("calibration:", "#", "genome", "calibration: is missing; fisher needs the fisher"),
    ],
    ids=["a file that is not there", "no texts"],
)
def test_what_is_missing_is_found_before_the_search(
    old: str, new: str, where: str, message: str, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(recipe.read_text().replace(old, new))
    (error,) = check_search(load(SearchRecipe, recipe), tmp_path).errors
    assert error.where == where
    assert message in error.message
