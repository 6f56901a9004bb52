"""Promise: what a search measures of its models is measured once, before it begins."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from command_line import run_cli, write_recipe
from safetensors.torch import load_file, save_file
from tiny_family import WORDS

from evomerge.recipe.merge import MergeRecipe
from evomerge.run import search as search_run
from evomerge.run.beginning import measure
from evomerge.run.beginning.strategy import strategy_of
from evomerge.run.folder import RunFolder
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.store.records import Entry

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search recipe with a prior, its texts beside it."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("red cat dog\nsun and moon\n")
    file = write_recipe(tmp_path, family)
    text = file.read_text().replace("genome: {", "genome: {prior: {kind: sensitivity}, ")
    file.write_text(text + "calibration: {texts: texts.txt, samples: 2}\n")
    return file


def entries(run: Path) -> list[Entry]:
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        return store.entries()


def fact(run: Path, key: str) -> Any:
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        return store.fact(key)


def never(*_: object, **__: object) -> None:
    raise AssertionError("measured again")


def altered(family: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A sibling of `one` with other tensors."""
    out.mkdir()
    for file in (family / "one").iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    found = load_file(out / "model.safetensors")
    changed = {name: change(name, tensor) for name, tensor in found.items()}
    save_file(changed, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_a_check_says_what_will_be_measured_and_measures_nothing(
    recipe: Path, tmp_path: Path
) -> None:
    done = run_cli("check", recipe)
    said = " ".join(done.out.split())
    assert "can be searched; 13 genes, 4 models measured before the search: sensitivity" in said
    assert "sensitivity of every source, on texts.txt (at most 2 documents each)" in said
    done = run_cli("check", recipe, "--set", "genome.prior.trust=0")
    assert "measured" not in done.out
    sets = ("genome.prior.trust=0", "genome.prior.steps=-1", "search.strategy=GA")
    done = run_cli("check", recipe, *(word for each in sets for word in ("--set", each)))
    assert "measured before the search: sensitivity of every source" in done.out
    assert not (tmp_path / "cache").exists()


def test_a_prior_is_measured_once_and_a_search_that_is_continued_needs_no_models_for_it(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    done = run_cli("search", recipe, "--run", run, "--set", "search.candidates=12")
    assert done.code == 0, done.err
    assert [line for line in done.err.splitlines() if line.startswith("measuring")] == [
        "measuring the sensitivity of one",
        "measuring the sensitivity of two",
        "measuring the sensitivity of adapter",
    ]
    before = fact(run, "prior")
    assert {len(parts) for parts in before.values()} == {4}
    monkeypatch.setattr(measure, "statistic", never)
    more = ("--set", "search.candidates=20")
    done = run_cli("search", recipe, "--run", run, *more)
    assert done.code == 0, done.err
    assert fact(run, "prior") == before
    whole = tmp_path / "whole"
    monkeypatch.undo()
    assert run_cli("search", recipe, "--run", whole, *more).code == 0
    assert [each.candidate for each in entries(run) if each.candidate.number >= 0] == [
        each.candidate for each in entries(whole) if each.candidate.number >= 0
    ]


def test_layers_that_a_source_does_not_depend_on_get_no_weight(
    recipe: Path, family: Path, tmp_path: Path
) -> None:
    ends = ("layers.1.self_attn.o_proj.weight", "layers.1.mlp.down_proj.weight")
    # Nothing comes out of layer 1.
    model = altered(
        family, tmp_path / "shallow", lambda name, t: t * 0 if name.endswith(ends) else t
    )
    recipe.write_text(recipe.read_text().replace(f"{family}/two", str(model)))
    run = tmp_path / "run"
    sets = ("--set", "genome.prior.trust=1", "--set", "search.candidates=12")
    done = run_cli("search", recipe, "--run", run, *sets)
    assert done.code == 0, done.err
    found = {(group, part): value for group, part, value in fact(run, "prior")["shallow"]}
    assert found[0, "mlp"] > 0 == found[1, "mlp"]
    assert found[0, None] > 0 == found[1, None]
    for entry in entries(run):
        if entry.candidate.genotype:
            recipe_of = MergeRecipe.model_validate_json(entry.candidate.recipe)
            rules: Any = recipe_of.sources[1].parameters["weight"]
            values = {(rule.layers, rule.component): rule.value for rule in rules}
            assert values[(1, 2), "mlp"] == values[(1, 2), None] == 0
            # Both layers together are 2 means: the other one counts twice its gene.
            first = round(2 * round(entry.candidate.genotype[4], 5), 5)
            assert values[(0, 1), "mlp"] == pytest.approx(first)


def test_a_measurement_that_is_not_finite_is_one_line(
    recipe: Path, family: Path, tmp_path: Path
) -> None:
    model = altered(
        family, tmp_path / "loud", lambda name, t: t * math.nan if "up_proj" in name else t
    )
    recipe.write_text(recipe.read_text().replace(f"{family}/two", str(model)))
    done = run_cli("search", recipe, "--run", tmp_path / "run")
    assert done.code == 1
    (error,) = [line for line in done.err.splitlines() if line.startswith("error")]
    assert "loud: the sensitivity of" in error
    assert "is not finite" in error


def test_a_breeder_has_no_use_for_a_prior(recipe: Path) -> None:
    done = run_cli("check", recipe, "--set", "search.strategy=Kinship")
    assert done.code == 2
    assert "search.strategy: Kinship breeds models from models, whatever the genome is" in done.err


def test_a_prior_of_kinship_is_measured_from_the_weights_and_needs_no_texts(
    family: Path, tmp_path: Path
) -> None:
    base = load_file(family / "base" / "model.safetensors")

    def opposed(name: str, tensor: Tensor) -> Tensor:
        """In layer 0 the MLP goes the opposite way, in layer 1 it goes none."""
        if "layers.0.mlp" in name:
            return 2 * base[name] - tensor
        return base[name] if "layers.1.mlp" in name else tensor

    model = altered(family, tmp_path / "opposed", opposed)
    file, run = write_recipe(tmp_path, family), tmp_path / "run"
    text = file.read_text().replace("genome: {", "genome: {prior: {kind: kinship}, ")
    text = text.replace(f"  - {family}/two\n", f"  - {model}\n")
    file.write_text("".join(line for line in text.splitlines(keepends=True) if "lora" not in line))
    said = run_cli("check", file).out
    assert "measured before the search: kinship of the sources in each part, from their" in said
    done = run_cli("search", file, "--run", run, "--set", "search.candidates=8")
    assert done.code == 0, done.err
    # Cosines of -1, 0 beside what did not move, and 1.
    expected = {(0, "mlp"): 2, (1, "mlp"): 1, (0, None): 0, (1, None): 0}
    for parts in fact(run, "prior").values():
        found = {(group, part): value for group, part, value in parts}
        assert found == pytest.approx(expected, abs=1e-4)  # weights are stored in float32


def test_a_strategy_is_told_the_steps_that_follow_the_prior(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, ...]] = []

    def spy(store: Any, search: Any, gram: Any, scales: tuple[float, ...]) -> Any:
        told.append(scales)
        return strategy_of(store, search, gram, scales)

    monkeypatch.setattr(search_run, "strategy_of", spy)
    sets = ("search.strategy=GA", "search.candidates=7", "genome.prior.steps=-1")
    options = [word for each in sets for word in ("--set", each)]
    assert run_cli("search", recipe, "--run", tmp_path / "run", *options).code == 0
    measured = {
        (group, part): value for group, part, value in fact(tmp_path / "run", "prior")["one"]
    }
    # Genes of a source: the MLP of both layer groups and all else, group by group.
    (mlp_first, _, mlp_second, _), ratio = told[0][:4], measured[1, "mlp"] / measured[0, "mlp"]
    assert ratio != 1
    assert mlp_first / mlp_second == pytest.approx(ratio)


def test_steps_are_refused_where_all_genes_have_the_same(recipe: Path) -> None:
    done = run_cli("check", recipe, "--set", "genome.prior.steps=-0.5")
    assert done.code == 2
    assert (
        "search.strategy: genome.prior.steps is -0.5, but all genes of random have the same step; "
        "leave it out, or choose GA or GAPolynomial"
    ) in " ".join(done.err.split())


def test_the_kinship_of_sources_is_a_fact_of_the_run(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run = write_recipe(tmp_path, family, "Kinship"), tmp_path / "run"
    done = run_cli("search", file, "--run", run, "--set", "search.candidates=9")
    assert done.code == 0, done.err
    assert "measuring the kinship of the sources" in done.err
    gram = fact(run, "gram")
    assert [len(row) for row in gram] == [3, 3, 3]
    assert all(gram[i][i] > 0 for i in range(3))
    monkeypatch.setattr(measure, "measure_family", never)
    done = run_cli("search", file, "--run", run, "--set", "search.candidates=60")
    assert done.code == 0, done.err
    assert "The search ended early: the best 3 models" in done.out
    assert "measuring" not in done.err


def test_a_bred_average_is_exported_to_mergekit(family: Path, tmp_path: Path) -> None:
    file, run = write_recipe(tmp_path, family, "Kinship"), tmp_path / "run"
    done = run_cli("search", file, "--run", run, "--set", "search.candidates=24")
    assert done.code == 0, done.err
    last = [entry for entry in entries(run) if entry.candidate.kind == "offspring"][-1]
    name, out = last.candidate.digest[:12], tmp_path / "m.yaml"
    done = run_cli("export", run, name, "--to", "mergekit", "--out", out)
    assert done.code == 0, done.err
    assert "merge_method: linear" in out.read_text()


def test_a_source_that_was_only_asked_for_cannot_win(family: Path, tmp_path: Path) -> None:
    file, run = write_recipe(tmp_path, family, "Kinship"), tmp_path / "run"
    done = run_cli("search", file, "--run", run, "--set", "search.candidates=24")
    assert done.code == 0, done.err
    sources = {e.candidate.digest for e in entries(run) if e.candidate.kind == "source"}
    best = max(entries(run), key=lambda entry: entry.fitness or 0)
    assert best.candidate.digest in sources  # or this test tells nothing
    assert fact(run, "verdict")["winner"] not in sources


def test_texts_that_hold_held_out_items_are_refused(recipe: Path, tmp_path: Path) -> None:
    every_pair = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]
    (tmp_path / "texts.txt").write_text("\n".join(every_pair))
    done = run_cli("check", recipe)
    assert done.code == 2
    assert "texts.txt contains 12 held-out items of the evaluation, which" in done.err
