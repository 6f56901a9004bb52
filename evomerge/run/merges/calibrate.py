"""Calibrates the merge that a recipe file describes, into a recipe or into a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from evomerge.calibration.coefficients import (
    AdaMergingSettings,
    Learned,
    SuperMergeSettings,
    adamerging,
    supermerge,
)
from evomerge.calibration.featcal import FeatCalSettings, featcal
from evomerge.calibration.localize_and_stitch import (
    LocalizeAndStitchSettings,
    localize_and_stitch,
)
from evomerge.calibration.prodistill import ProDistillSettings, prodistill
from evomerge.calibration.regmean_plus_plus import RegMeanPlusPlusSettings, regmean_plus_plus
from evomerge.checkpoints import check_output_file, check_output_folder
from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.load import validate
from evomerge.run.merges.export import export_recipe
from evomerge.run.merges.merge import FileRecipe, check_models, naming, read_file
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from evomerge.recipe.schema import Strict
    from evomerge.sensitivity.statistics import Progress


class Writer(Protocol):
    """A procedure that writes a model."""

    def __call__(self, *arguments: Any, **options: Any) -> None:
        """See `featcal`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A procedure and what it takes.

    Attributes:
        settings: The class of its settings.
        learn: Finds coefficients, if it does.
        write: Writes a model, if it does.
    """

    settings: type[Strict]
    learn: Callable[..., Learned] | None = None
    write: Writer | None = None


METHODS = {
    "adamerging": Method(settings=AdaMergingSettings, learn=adamerging),
    "featcal": Method(settings=FeatCalSettings, write=featcal),
    "localize_and_stitch": Method(settings=LocalizeAndStitchSettings, write=localize_and_stitch),
    "prodistill": Method(settings=ProDistillSettings, write=prodistill),
    "regmean_plus_plus": Method(settings=RegMeanPlusPlusSettings, write=regmean_plus_plus),
    "supermerge": Method(settings=SuperMergeSettings, learn=supermerge),
}


def calibrate_file(
    method: str, file: Path, out: Path, overrides: Sequence[str], progress: Progress | None = None
) -> list[str]:
    """Calibrate what a recipe file describes.

    Args:
        method: One of `METHODS`.
        file: The recipe, ours, with a calibration.
        out: The recipe or the folder that is written; must not exist.
        overrides: `setting=value` texts for the method.
        progress: Told how much is done, and of how much.

    Returns:
        What its user should know.

    Raises:
        RecipeError: The method, a setting or the recipe is wrong.
        CompatibilityError: The models do not fit together.
        EvomergeError: See the method.
    """
    chosen = METHODS.get(method)
    if chosen is None:
        raise RecipeError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    settings = validate(chosen.settings, yaml.parse("{}", "--set"), overrides)
    check = check_output_file if chosen.write is None else check_output_folder
    check(out)
    read = read_file(file)
    with naming(file):
        return _calibrate(chosen, method, read, settings, out, progress)


def _calibrate(
    chosen: Method,
    method: str,
    read: FileRecipe,
    settings: Strict,
    out: Path,
    progress: Progress | None,
) -> list[str]:
    notes = [*read.notes, *check_models(read)]
    common = (read.recipe, read.library, Calibrator(), settings)
    if chosen.learn is not None:
        learned = chosen.learn(*common, progress=progress)
        export_recipe(learned.recipe, out)
        if learned.losses:
            first, last = learned.losses[0], learned.losses[-1]
            notes.append(f"loss {first:.4f} at first, {last:.4f} in step {len(learned.losses)}")
    if chosen.write is not None:
        about = {
            "method": method,
            "settings": settings.model_dump(mode="json"),
            "recipe": read.recipe.model_dump(mode="json", exclude_defaults=True),
        }
        files = {"evomerge-calibration.yaml": to_yaml(about).encode()}
        chosen.write(*common, out, files=files, progress=progress)
    return notes
