"""Coefficients are learned by gradients, and what comes out is an ordinary recipe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.calibration.coefficients import (
    AdaMergingSettings,
    SuperMergeSettings,
    adamerging,
    entropy,
    supermerge,
)
from evomerge.calibration.family import open_family
from evomerge.errors import RecipeError
from evomerge.layout import locate
from evomerge.live_model import load_checkpoint
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.digest import digest
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator

    Recipe = Callable[..., MergeRecipe]
    MeanLoss = Callable[[Callable[..., Tensor], MergeRecipe], float]


def weights(recipe: MergeRecipe, name: str) -> list[float]:
    return [recipe.setting("weight", name, locate(name), each) for each in recipe.sources]


@pytest.fixture
def mean_loss(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator, tmp_path: Path
) -> MeanLoss:
    """The loss of an exported merge, on all texts."""
    texts = open_family(recipe(), library, calibrator).texts

    def measure(of: Callable[..., Tensor], merged: MergeRecipe) -> float:
        out = tmp_path / digest(merged)
        export_checkpoint(merged, library, out)
        model, _ = load_checkpoint(library.model(str(out)), torch.float32, torch.device("cpu"))
        with torch.no_grad():
            found = [float(of(model, text)) for own in texts for text in own]
        return sum(found) / len(found)

    return measure


@pytest.mark.parametrize("method", ["adamerging", "supermerge"])
def test_without_steps_the_recipe_merges_to_the_same_bytes(
    method: str,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    tmp_path: Path,
    read_all: Callable[[Path], dict[str, Tensor]],
) -> None:
    start = recipe()
    if method == "adamerging":
        learned = adamerging(start, library, calibrator, AdaMergingSettings(rate=0, steps=2))
    else:
        learned = supermerge(start, library, calibrator, SuperMergeSettings(rate=0, steps=2))
    for number, each in enumerate((start, learned.recipe)):
        export_checkpoint(each, library, tmp_path / str(number))
    before, after = (read_all(tmp_path / str(number)) for number in range(2))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert learned.losses[0] == pytest.approx(learned.losses[1])


@pytest.mark.parametrize("objective", ["supervised", "entropy"])
def test_adamerging_lowers_its_loss_and_stays_between_zero_and_one(
    objective: Any,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    mean_loss: MeanLoss,
) -> None:
    settings = AdaMergingSettings(loss=objective, rate=0.05, steps=12, batch=2)
    learned = adamerging(recipe(), library, calibrator, settings)
    of = loss if objective == "supervised" else entropy
    before, after = mean_loss(of, recipe()), mean_loss(of, learned.recipe)
    assert learned.losses[0] == pytest.approx(before, rel=1e-4)
    assert after < before - 0.01
    assert learned.losses[-1] == pytest.approx(after, abs=0.1)
    for name in library.model("base").headers:
        assert all(0 <= weight <= 1 for weight in weights(learned.recipe, name))


def test_supermerge_lowers_its_loss_and_stays_between_minus_one_and_one(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator, mean_loss: MeanLoss
) -> None:
    settings = SuperMergeSettings(rate=0.3, steps=12, batch=2)
    learned = supermerge(recipe(), library, calibrator, settings)
    before, after = mean_loss(loss, recipe()), mean_loss(loss, learned.recipe)
    assert after < before - 0.05
    for name in library.model("base").headers:
        assert all(-1 < weight < 1 for weight in weights(learned.recipe, name))


@pytest.mark.parametrize("method", ["adamerging", "supermerge"])
def test_what_is_supervised_is_the_completion_where_there_is_a_prompt(
    method: str,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    tmp_path: Path,
) -> None:
    prompt, completion = "red cat is ", "one two one two"
    file = tmp_path / "prompted.jsonl"
    file.write_text(json.dumps({"prompt": prompt, "completion": completion}))
    start = recipe(calibration={"texts": str(file)})
    if method == "adamerging":
        supervised = AdaMergingSettings(loss="supervised", rate=0.05, steps=12)
        learned = adamerging(start, library, calibrator, supervised)
    else:
        learned = supermerge(start, library, calibrator, SuperMergeSettings(rate=0.1, steps=12))
    losses = []
    for number, each in enumerate((start, learned.recipe)):
        export_checkpoint(each, library, tmp_path / str(number))
        model, tokenizer = load_checkpoint(
            library.model(str(tmp_path / str(number))), torch.float32, torch.device("cpu")
        )
        ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]])
        # A token is a byte; transformers does not count labels of -100.
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=labels).loss))
    assert learned.losses[0] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] < losses[0] - 0.05


def test_layers_and_their_parts_have_coefficients_of_their_own(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    settings = SuperMergeSettings(rate=0.1, steps=3)
    learned = supermerge(recipe(), library, calibrator, settings).recipe
    names = {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
    }
    assert len({weights(learned, name)[0] for name in names}) == len(names)
    first = "model.layers.0.self_attn.q_proj.weight"
    assert weights(learned, first) == weights(learned, first.replace("q_proj", "v_proj"))


def test_the_first_step_goes_downhill_along_every_coefficient(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator, mean_loss: MeanLoss
) -> None:
    rate = 0.01
    settings = AdaMergingSettings(loss="supervised", rate=rate, steps=1)
    learned = adamerging(recipe(), library, calibrator, settings).recipe
    before = mean_loss(loss, recipe())
    for index, source in enumerate(recipe().sources):
        # Adam's first step is as long as its rate, whatever the gradient's size.
        for layer in range(2):
            name = f"model.layers.{layer}.mlp.up_proj.weight"
            step = weights(learned, name)[index] - 0.3
            assert abs(step) == pytest.approx(rate, rel=1e-3)
            rules = [
                {"value": 0.3 + step, "layers": [layer, layer + 1], "component": "mlp"},
                {"value": 0.3},
            ]
            sources = [each.model_dump(exclude_defaults=True) for each in recipe().sources]
            sources[index] = {"model": source.model, "parameters": {"weight": rules}}
            assert mean_loss(loss, recipe(sources=sources)) < before


def test_the_weights_of_a_normalised_and_scaled_recipe_are_where_it_starts(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    start = recipe(parameters={"weight": 3, "normalize": True, "scale": 0.8})
    learned = adamerging(start, library, calibrator, AdaMergingSettings(steps=0)).recipe
    assert weights(learned, "model.norm.weight") == [0.4, 0.4]


def test_the_same_is_learned_again(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    settings = SuperMergeSettings(rate=0.1, steps=2)
    first, second = (supermerge(recipe(), library, calibrator, settings) for _ in range(2))
    assert first == second


def test_another_operator_is_refused(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    with pytest.raises(RecipeError, match="operator: ties, but coefficients are learned of task"):
        adamerging(recipe(operator="ties"), library, calibrator, AdaMergingSettings())


def test_missing_texts_are_refused(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator, texts: dict[str, str]
) -> None:
    with pytest.raises(RecipeError, match="calibration: is missing; write"):
        adamerging(recipe(calibration=None), library, calibrator, AdaMergingSettings())
    start = recipe(calibration={"texts": {"one": texts["one"]}})
    with pytest.raises(RecipeError, match="texts: has no file for two; give it one"):
        adamerging(start, library, calibrator, AdaMergingSettings())


def test_stacked_layers_are_refused(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    start = recipe(stack=[{"layers": [0, 2]}, {"layers": [1, 2]}])
    with pytest.raises(RecipeError, match="stack: a merge that is calibrated keeps the base's la"):
        adamerging(start, library, calibrator, AdaMergingSettings())


def test_what_is_learned_can_be_merged_from_anywhere(
    recipe: Recipe, library: SourceLibrary, calibrator: Calibrator, tmp_path: Path
) -> None:
    inner = {
        "recipe": {"base": "base", "sources": ["two"], "operator": "linear", "dtype": "float32"},
        "name": "inner",
    }
    texts = recipe().calibration
    assert texts is not None
    start = recipe(
        sources=["one", inner],
        calibration={"texts": {"one": texts.file("one"), "inner": texts.file("two")}},
    )
    settings = SuperMergeSettings(rate=0.1, steps=2)
    learned = supermerge(start, library, calibrator, settings)
    export_checkpoint(learned.recipe, SourceLibrary(tmp_path), tmp_path / "merged")
    # A source that is a recipe is a source like any other.
    assert learned.losses == supermerge(recipe(), library, calibrator, settings).losses
