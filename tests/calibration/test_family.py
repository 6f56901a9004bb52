"""The models of a recipe are read, merged and run as a procedure needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.calibration.family import open_family
from evomerge.errors import EvaluationError
from evomerge.merging.export import export_checkpoint
from evomerge.sensitivity.gradients import loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.calibration import Document
    from evomerge.sensitivity.provider import Calibrator

QUERY = "model.layers.1.self_attn.q_proj.weight"


def test_it_reads_base_sources_task_vectors_and_the_merge(
    recipe: Callable[..., MergeRecipe],
    library: SourceLibrary,
    calibrator: Calibrator,
    tmp_path: Path,
    read_all: Callable[[Path], dict[str, Tensor]],
) -> None:
    family = open_family(recipe(), library, calibrator)
    base, one = (library.model(name).read(QUERY).float() for name in ("base", "one"))
    assert torch.equal(family.base(QUERY), base)
    assert torch.equal(family.source(0, QUERY), one)
    assert torch.equal(family.delta(0, QUERY), one - base)
    export_checkpoint(recipe(), library, tmp_path / "merged")
    assert torch.equal(family.merged(QUERY), read_all(tmp_path / "merged")[QUERY])


def test_batches_go_round_through_the_texts_of_a_source(
    recipe: Callable[..., MergeRecipe],
    library: SourceLibrary,
    calibrator: Calibrator,
    tmp_path: Path,
) -> None:
    (tmp_path / "texts.txt").write_text("ab\ncd\nef")
    texts = {"texts": str(tmp_path / "texts.txt")}
    family = open_family(recipe(calibration=texts), library, calibrator)
    a, b, c = family.texts[0]
    steps = [family.batch(0, step, 2) for step in range(3)]
    for found, expected in zip(steps, ((a, b), (c, a), (b, c)), strict=True):
        assert all(one is other for one, other in zip(found, expected, strict=True))
    assert len(family.batch(0, 0, 9)) == 3


def test_gradients_are_those_of_the_mean_loss(
    recipe: Callable[..., MergeRecipe], library: SourceLibrary, calibrator: Calibrator
) -> None:
    family = open_family(recipe(), library, calibrator)
    texts = [*family.texts[0], *family.texts[1]]
    found = family.backward(loss, texts, 0)
    gradient = family.model.get_parameter(QUERY).grad.clone()
    parameter = family.model.get_parameter(QUERY).requires_grad_()
    mean = sum(loss(family.model, text) for text in texts) / len(texts)
    (expected,) = torch.autograd.grad(mean, parameter)
    torch.testing.assert_close(gradient, expected)
    assert found == pytest.approx(float(mean.detach()))


def test_a_loss_that_is_no_number_is_refused(
    recipe: Callable[..., MergeRecipe], library: SourceLibrary, calibrator: Calibrator
) -> None:
    family = open_family(recipe(), library, calibrator)

    def overflow(model: Any, text: Document) -> Tensor:
        return loss(model, text) * float("nan")

    with pytest.raises(EvaluationError, match="the loss is nan in step 3; the merge overflows"):
        family.backward(overflow, family.texts[0], 2)
