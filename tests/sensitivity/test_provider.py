"""Merges get statistics as operators take them, and merge with them what the formulas say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import CompatibilityError, MergeError, RecipeError
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe
from evomerge.sensitivity import provider
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration
from evomerge.sensitivity.logits import logit_distances
from evomerge.sensitivity.provider import Calibrator
from evomerge.sensitivity.statistics import statistic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

QUERY = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
TEXTS = {"one": ("red cat", "sun"), "two": ("the moon",), "base": ("sea bird",)}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of texts for each model."""
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in TEXTS.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> StatisticsCache:
    return StatisticsCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def library(family: Path, kept: StatisticsCache) -> SourceLibrary:
    return SourceLibrary(family, calibrate=Calibrator(cache=kept, device="cpu"))


@pytest.fixture
def calibrated(texts: Path) -> Any:
    """Makes a recipe of `one` and `two` whose models have texts."""

    def make(operator: str, *sources: Any, **fields: Any) -> MergeRecipe:
        files = {name: str(texts / f"{name}.txt") for name in TEXTS}
        document = {
            "base": "base",
            "sources": sources or ["one", "two"],
            "operator": operator,
            "dtype": "float32",
            "calibration": {"texts": files if not sources else files["base"]},
        }
        return MergeRecipe.model_validate(document | fields)

    return make


def measured(family: Path, kept: StatisticsCache, kind: Any, name: str) -> Any:
    model = open_checkpoint(name, root=family)
    return statistic(kind, model, Calibration(texts=TEXTS[name]), kept)


def merged(recipe: MergeRecipe, library: SourceLibrary, out: Path) -> dict[str, Tensor]:
    export_checkpoint(recipe, library, out)
    model = SourceLibrary(out.parent).model(out.name)
    return {name: model.read(name).clone() for name in model.headers}


def test_fisher_merging_is_the_weighted_mean_of_every_entry(
    family: Path, tmp_path: Path, kept: StatisticsCache, library: SourceLibrary, calibrated: Any
) -> None:
    recipe = calibrated("fisher", parameters={"floor": 1e-12, "normalize": True})
    found = merged(recipe, library, tmp_path / "merged")
    for name in (QUERY, NORM, "model.embed_tokens.weight"):
        total = weighted = torch.zeros(())
        for source in ("one", "two"):
            fisher = measured(family, kept, "fisher", source)
            norm = sum(float(each.double().square().sum()) for each in fisher.values()) ** 0.5
            share = fisher[name] / norm + 1e-12
            total = total + share
            weighted = weighted + share * library.model(source).read(name).float()
        torch.testing.assert_close(found[name], weighted / total)


def test_regmean_solves_the_regression_of_linear_layers_and_averages_the_rest(
    family: Path, tmp_path: Path, kept: StatisticsCache, library: SourceLibrary, calibrated: Any
) -> None:
    found = merged(calibrated("regmean"), library, tmp_path / "merged")
    sources = [library.model(name).read(QUERY).double() for name in ("one", "two")]
    grams = []
    for name in ("one", "two"):
        gram = measured(family, kept, "gram", name)[QUERY].double()
        grams.append(0.9 * gram + 0.1 * gram.diagonal().diag())
    right = sum(weight @ gram for weight, gram in zip(sources, grams, strict=True))
    expected = torch.linalg.solve(sum(grams), right, left=False)
    torch.testing.assert_close(found[QUERY].double(), expected, rtol=1e-3, atol=1e-3)
    norms = [library.model(name).read(NORM).float() for name in ("one", "two")]
    torch.testing.assert_close(found[NORM], (norms[0] + norms[1]) / 2)


def test_sens_merging_shares_layers_by_their_summed_sensitivities(
    family: Path, tmp_path: Path, kept: StatisticsCache, library: SourceLibrary, calibrated: Any
) -> None:
    recipe = calibrated("sens_merging", parameters={"temperature": 0.1})
    found = merged(recipe, library, tmp_path / "merged")
    pairs = [
        (open_checkpoint(name, root=family), Calibration(texts=TEXTS[name]))
        for name in ("one", "two")
    ]
    differing = logit_distances(pairs, kept).double().sum(dim=1)
    logits = []
    for row, name in enumerate(("one", "two")):
        layers: dict[str, float] = {}
        for tensor, value in measured(family, kept, "sensitivity", name).items():
            parts = tensor.split(".")
            layer = ".".join(parts[:3]) if "layers" in parts else ".".join(parts[:-1])
            layers[layer] = layers.get(layer, 0.0) + float(value)
        norm = sum(value**2 for value in layers.values()) ** 0.5
        alpha = layers["model.layers.1"] / norm
        logits.append(alpha * float(differing[row] / differing.sum()) / 0.1)
    shares = 2 * torch.tensor(logits).softmax(0)
    base = library.model("base").read(QUERY).float()
    expected = base + sum(
        share * (library.model(name).read(QUERY).float() - base)
        for share, name in zip(shares, ("one", "two"), strict=True)
    )
    torch.testing.assert_close(found[QUERY], expected)


def test_fim_shrinks_layers_by_fisher_information_times_squared_norm(
    family: Path, tmp_path: Path, kept: StatisticsCache, library: SourceLibrary, calibrated: Any
) -> None:
    found = merged(calibrated("fim", "one"), library, tmp_path / "merged")
    base, one = library.model("base"), library.model("one")
    fisher = measured(family, kept, "fisher", "base")
    totals: dict[str, list[float]] = {}
    for name in base.headers:
        parts = name.split(".")
        layer = ".".join(parts[:3]) if "layers" in parts else ".".join(parts[:-1])
        moved = (one.read(name).double() - base.read(name).double()).square().sum()
        row = totals.setdefault(layer, [0.0, 0.0, 0.0])
        row[0] += float(fisher[name].double().sum())
        row[1] += fisher[name].numel()
        row[2] += float(moved)
    importance = {layer: f / n * d for layer, (f, n, d) in totals.items()}
    mean = sum(importance.values()) / len(importance)
    factor = 1 / (1 + importance["model.layers.1"] / mean)
    start = base.read(QUERY).float()
    expected = start + factor * (one.read(QUERY).float() - start)
    torch.testing.assert_close(found[QUERY], expected)


def test_aim_relaxes_any_merge_that_is_its_source(
    family: Path, tmp_path: Path, kept: StatisticsCache, library: SourceLibrary, calibrated: Any
) -> None:
    inner = {
        "base": "base",
        "sources": ["one", "two"],
        "operator": "ties",
        "parameters": {"weight": 1, "density": 0.5},
        "dtype": "float32",
    }
    found = merged(calibrated("aim", {"recipe": inner}), library, tmp_path / "aim")
    plain = merged(MergeRecipe.model_validate(inner), library, tmp_path / "ties")
    strength = measured(family, kept, "activation", "base")[QUERY]
    factor = 1 - strength / strength.max() * 0.6
    base = library.model("base").read(QUERY).float()
    torch.testing.assert_close(found[QUERY], base + factor * (plain[QUERY] - base))
    torch.testing.assert_close(found[NORM], plain[NORM])


def test_what_was_measured_is_measured_once_for_all_recipes(
    family: Path,
    tmp_path: Path,
    calibrated: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def counted(kind: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(kind)
        return statistic(kind, *arguments, **options)

    monkeypatch.setattr(provider, "statistic", counted)
    calibrator = Calibrator(cache=StatisticsCache(tmp_path / "cache"), device="cpu")
    library = SourceLibrary(family, calibrate=calibrator)
    for number, floor in enumerate((1e-8, 1e-6)):
        recipe = calibrated("fisher", parameters={"floor": floor})
        export_checkpoint(recipe, library, tmp_path / str(number))
    assert asked == ["fisher", "fisher"]


def test_what_is_bred_is_merged_by_what_was_measured_of_the_model_it_descends_from(
    family: Path,
    tmp_path: Path,
    kept: StatisticsCache,
    texts: Path,
    library: SourceLibrary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def counted(kind: Any, model: Any, *rest: Any, **options: Any) -> Any:
        asked.append(model.reference.rpartition("/")[2])
        return statistic(kind, model, *rest, **options)

    monkeypatch.setattr(provider, "statistic", counted)
    for seed in range(2):
        child = {"base": "base", "sources": ["two", "one"], "operator": "evolver", "seed": seed}
        recipe = MergeRecipe.model_validate(
            {
                "base": "base",
                "sources": ["one", {"recipe": child, "name": "two", "measured_as": "two"}],
                "operator": "fisher",
                "parameters": {"floor": 1e-12},
                "dtype": "float32",
                "calibration": {"texts": {each: f"{texts}/{each}.txt" for each in ("one", "two")}},
            }
        )
        found = merged(recipe, library, tmp_path / str(seed))[QUERY]
        bred = merged(recipe.inner[0], library, tmp_path / f"{seed} bred")[QUERY].float()
        shares = [measured(family, kept, "fisher", each)[QUERY] + 1e-12 for each in ("one", "two")]
        total = shares[0] * library.model("one").read(QUERY).float() + shares[1] * bred
        torch.testing.assert_close(found, total / sum(shares), rtol=1e-3, atol=1e-3)
        assert not torch.equal(bred, library.model("two").read(QUERY).float())
    assert sorted(asked) == ["one", "two"]


def test_other_texts_change_the_keys_of_jobs(
    tmp_path: Path, family: Path, kept: StatisticsCache, texts: Path
) -> None:
    def key(**settings: Any) -> object:
        library = SourceLibrary(family, calibrate=Calibrator(cache=kept))
        recipe = MergeRecipe.model_validate(
            {
                "base": "base",
                "sources": ["one"],
                "operator": "fisher",
                "calibration": {"texts": str(texts / "one.txt"), **settings},
            }
        )
        return library.plan(recipe).jobs[0].key

    copy = tmp_path / "copy.txt"
    copy.write_text((texts / "one.txt").read_text())
    assert key() == key(texts=str(copy))
    copy.write_text("another text")
    assert len({key(), key(texts=str(copy)), key(samples=1), key(max_tokens=3)}) == 4


def test_relative_paths_start_where_those_of_models_do(
    family: Path, kept: StatisticsCache
) -> None:
    recipe = MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": ["one"],
            "operator": "fisher",
            "calibration": {"texts": "tasks/nothing.txt"},
        }
    )
    library = SourceLibrary(family, calibrate=Calibrator(cache=kept))
    with pytest.raises(RecipeError, match=rf"{family}/tasks/nothing.txt: cannot be read"):
        library.plan(recipe)


def test_a_library_that_measures_nothing_refuses_before_it_merges(
    family: Path, calibrated: Any
) -> None:
    with pytest.raises(MergeError, match="fisher measures models on texts, which nobody does"):
        SourceLibrary(family).operands(calibrated("fisher"))


def test_a_missing_calibration_is_refused_before_anything_is_merged(
    library: SourceLibrary, calibrated: Any, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="calibration: is missing; fisher needs"):
        export_checkpoint(calibrated("fisher", calibration=None), library, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_weights_that_are_stored_transposed_are_refused(
    family: Path, tmp_path: Path, kept: StatisticsCache, texts: Path
) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(family / "base")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    with torch.random.fork_rng():
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    recipe = MergeRecipe.model_validate(
        {
            "base": "gpt2",
            "sources": ["gpt2"],
            "operator": "aim",
            "calibration": {"texts": str(texts / "one.txt")},
        }
    )
    library = SourceLibrary(tmp_path, calibrate=Calibrator(cache=kept))
    with pytest.raises(CompatibilityError, match="gpt2: stores its linear layers with inputs fir"):
        export_checkpoint(recipe, library, tmp_path / "merged")
