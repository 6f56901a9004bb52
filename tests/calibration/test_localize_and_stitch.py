"""Masks start from magnitudes and learn from texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from evomerge.calibration.family import open_family
from evomerge.calibration.localize_and_stitch import (
    LocalizeAndStitchSettings,
    localize_and_stitch,
)
from evomerge.checkpoints import open_checkpoint
from evomerge.errors import RecipeError
from evomerge.live_model import load_checkpoint
from evomerge.merging.export import export_checkpoint
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator

    Recipe = Callable[..., MergeRecipe]
    ReadAll = Callable[[Path], dict[str, Tensor]]

STITCH = {"operator": "localize_and_stitch", "parameters": {"density": 0.2}}


@pytest.mark.parametrize("settings", [{"steps": 0}, {"rate": 0, "steps": 1}], ids=str)
def test_without_learning_it_is_the_operator_bit_for_bit(
    settings: dict[str, float],
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    stitched = recipe(operator="localize_and_stitch", parameters={"density": 0.2, "scale": 0.7})
    chosen = LocalizeAndStitchSettings.model_validate(settings)
    localize_and_stitch(stitched, library, calibrator, chosen, tmp_path / "out")
    export_checkpoint(stitched, library, tmp_path / "merged")
    found, merged = read_all(tmp_path / "out"), read_all(tmp_path / "merged")
    assert found.keys() == merged.keys()
    assert all(torch.equal(found[name], merged[name]) for name in merged)


def test_learning_lowers_the_loss(
    tmp_path: Path, recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    done: list[tuple[int, int]] = []
    alone = recipe("one", **STITCH)
    settings = LocalizeAndStitchSettings(rate=300, steps=20, batch=2)
    localize_and_stitch(
        alone,
        library,
        calibrator,
        settings,
        tmp_path / "out",
        progress=lambda *each: done.append(each),
    )
    export_checkpoint(alone, library, tmp_path / "merged")
    (texts,) = open_family(alone, library, calibrator).texts
    found = {}
    for name in ("out", "merged"):
        checkpoint = open_checkpoint(name, root=tmp_path)
        model, _ = load_checkpoint(checkpoint, torch.float32, torch.device("cpu"))
        with torch.no_grad():
            found[name] = sum(float(loss(model, text)) for text in texts)
    assert found["out"] < found["merged"] - 0.05
    assert done == [(step, 20) for step in range(1, 21)]


def test_every_entry_is_the_base_a_source_or_their_mean(
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    settings = LocalizeAndStitchSettings(rate=300, steps=5)
    localize_and_stitch(recipe(**STITCH), library, calibrator, settings, tmp_path / "out")
    for name, tensor in read_all(tmp_path / "out").items():
        base, one, two = (library.model(m).read(name).float() for m in ("base", "one", "two"))
        allowed = torch.stack([base, one, two, (one + two) / 2])
        assert float((allowed - tensor).abs().amin(dim=0).max()) < 1e-5


def test_a_penalty_empties_the_masks(
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    settings = LocalizeAndStitchSettings(rate=1, steps=10, penalty=100)
    localize_and_stitch(recipe(**STITCH), library, calibrator, settings, tmp_path / "out")
    for name, tensor in read_all(tmp_path / "out").items():
        assert torch.equal(tensor, library.model("base").read(name).float())


def test_another_operator_is_refused(
    tmp_path: Path, recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    settings = LocalizeAndStitchSettings()
    with pytest.raises(RecipeError, match="operator: ties, but masks are learned of localize_and"):
        localize_and_stitch(
            recipe(operator="ties"), library, calibrator, settings, tmp_path / "out"
        )
