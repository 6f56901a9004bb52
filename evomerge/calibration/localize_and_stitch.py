"""Learns which entries of each source its skill sits in, and averages where they overlap.

He et al., "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic", 2024,
https://arxiv.org/abs/2408.13656, sections 3.2 and 3.3. The operator of the same name masks by
magnitude, which is where the masks start from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from evomerge.calibration.family import open_family
from evomerge.calibration.writing import write_model
from evomerge.errors import RecipeError
from evomerge.recipe.schema import Natural, Number, Positive, Strict
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from evomerge.calibration.family import Family
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator
    from evomerge.sensitivity.statistics import Progress

START = 3.0
"""The logit that an entry in the mask starts from; those outside start from its negative."""

Rate = Annotated[Number, Field(ge=0)]


class LocalizeAndStitchSettings(Strict):
    """How masks are learned.

    Attributes:
        rate: Learning rate of plain gradient descent on the masks' logits; large, because their
            gradients are tiny.
        steps: Number of steps for each source.
        batch: Texts in a step.
        penalty: What an entry in the mask costs (l1).
    """

    rate: Rate = 1e7
    steps: Natural = 50
    batch: Positive = 4
    penalty: Rate = 0.0


def localize_and_stitch(
    recipe: MergeRecipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    settings: LocalizeAndStitchSettings,
    out: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> None:
    """Learn masks, stitch the sources and write the result.

    In memory are a model, its gradient and its logits, and a byte per entry and source.

    Args:
        recipe: A merge by the operator `localize_and_stitch`, with a calibration.
        library: Opens its models.
        calibrator: Reads its texts and says where models run.
        settings: How it learns.
        out: The folder; must not exist or be empty.
        files: Further files to put beside the weights, by name.
        progress: Told the steps done, and of how many.

    Raises:
        RecipeError: The recipe is of another operator, gives a source no texts, or changes layers
            or vocabulary.
        EvaluationError: The loss is not finite.
        MergeError: A result is not finite.
        ModelError: A model cannot be opened or run.
        OutputError: `out` is taken or cannot be written; DiskFullError if the disk is full.
    """
    if recipe.operator != "localize_and_stitch":
        raise RecipeError(
            f"operator: {recipe.operator}, but masks are learned of localize_and_stitch, starting "
            "from those of its density"
        )
    family = open_family(recipe, library, calibrator)
    masks = []
    total = settings.steps * len(recipe.sources)
    for source in range(len(recipe.sources)):
        logits = {live: _start(family, source, name) for live, name in family.names.items()}
        for step in range(settings.steps):
            _descend(family, source, logits, step, settings)
            if progress:
                progress(source * settings.steps + step + 1, total)
        masks.append({family.names[live]: (each > 0).cpu() for live, each in logits.items()})
    tensors = ((name, _stitch(family, masks, name)) for name in family.jobs)
    jobs = family.jobs
    write_model(recipe, jobs, library, out, list(jobs), tensors, files or {})


def _start(family: Family, source: int, name: str) -> Tensor:
    inside = _mask_by_magnitude(family, source, name).float()
    logits: Tensor = inside * (2 * START) - START
    return logits


def _mask_by_magnitude(family: Family, source: int, name: str) -> Tensor:
    delta = family.delta(source, name)
    least = family.operands.inputs(family.jobs[name])["measured"][source].to(delta)
    mask: Tensor = (delta != 0) & (delta.abs() >= least)
    return mask


def _descend(
    family: Family,
    source: int,
    logits: Mapping[str, Tensor],
    step: int,
    settings: LocalizeAndStitchSettings,
) -> None:
    """Move a source's logits one step against the gradient of its loss."""
    parameters = dict(family.model.named_parameters())
    for live, name in family.names.items():
        moved = logits[live].sigmoid() * family.delta(source, name)
        parameters[live].copy_(family.base(name) + moved)
    family.backward(loss, family.batch(source, step, settings.batch), step)
    for live, name in family.names.items():
        share = logits[live].sigmoid()
        gradient = torch.full_like(share, settings.penalty)
        if parameters[live].grad is not None:
            gradient += parameters[live].grad * family.delta(source, name)
        logits[live].sub_(gradient * share * (1 - share), alpha=settings.rate)
        parameters[live].grad = None


def _stitch(family: Family, masks: list[dict[str, Tensor]], name: str) -> Tensor:
    """A tensor of the result: where masks overlap, the mean of the task vectors."""
    job = family.jobs[name]
    if not job.dtype.is_floating_point:
        return family.merged(name)
    base = family.base(name)
    total, count = torch.zeros_like(base), torch.zeros_like(base)
    for source, learned in enumerate(masks):
        # A head that is tied to the embedding, but stored, is not in the live model.
        mask = learned.get(name)
        mask = _mask_by_magnitude(family, source, name) if mask is None else mask
        inside = mask.to(base)
        total += family.delta(source, name) * inside
        count += inside
    moved: Tensor = total / count.clamp(min=1) * job.arguments["scale"]
    return (base + moved).to(job.dtype)
