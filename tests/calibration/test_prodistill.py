"""ProDistill moves each layer of a merge towards what its sources make of their own inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.calibration.family import open_family
from evomerge.calibration.prodistill import ProDistillSettings, prodistill
from evomerge.checkpoints import open_checkpoint
from evomerge.errors import EvaluationError
from evomerge.live_model import load_checkpoint
from evomerge.merging.export import export_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.sensitivity.provider import Calibrator

    Recipe = Callable[..., MergeRecipe]
    ReadAll = Callable[[Path], dict[str, Tensor]]

ONE_IN_LAYERS = {"weight": [{"value": 0.3, "layers": [0, 2]}, {"value": 1}]}
"""A source's embeddings with layers that are between the base's and the source's."""
QUERY = "model.layers.{}.self_attn.q_proj.weight"


def live(folder: Path) -> Any:
    checkpoint = open_checkpoint(folder.name, root=folder.parent)
    return load_checkpoint(checkpoint, torch.float32, torch.device("cpu"))[0]


def made(model: Any, ids: Tensor, layer: int) -> Tensor:
    """What a layer of a model makes of a text."""
    kept = []
    block = model.model.layers[layer]
    handle = block.register_forward_hook(lambda *call: kept.append(call[-1]))
    model(input_ids=ids[None])
    handle.remove()
    return kept[0][0] if isinstance(kept[0], tuple) else kept[0]


def distance(model: Any, sources: list[Any], texts: Any, layer: int) -> Tensor:
    """The summed squared distance of what a layer makes from what that of each source makes."""
    return sum(
        (made(model, text.ids, layer) - made(source, text.ids, layer).detach()).square().sum()
        for source, own in zip(sources, texts, strict=True)
        for text in own
    )


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"rate": 0, "epochs": 2}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "base"])
def test_where_nothing_is_learned_the_merge_is_written_bit_for_bit(
    dtype: str,
    settings: dict[str, Any],
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    merge = recipe(dtype=dtype)
    export_checkpoint(merge, library, tmp_path / "merged")
    prodistill(merge, library, calibrator, ProDistillSettings(**settings), tmp_path / "out")
    found, merged = read_all(tmp_path / "out"), read_all(tmp_path / "merged")
    assert found.keys() == merged.keys()
    for name in merged:
        assert torch.equal(found[name], merged[name])


@pytest.mark.parametrize("layer", [0, 1])
def test_the_first_step_goes_against_the_gradient_of_the_distance(
    layer: int,
    family: Path,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    rate = 1e-3
    settings = ProDistillSettings(rate=rate, epochs=1)
    prodistill(recipe(), library, calibrator, settings, tmp_path / "out")
    export_checkpoint(recipe(), library, tmp_path / "merged")
    # Below, the layers that were learned before; here, the merge's.
    student = live(tmp_path / "merged")
    for below in range(layer):
        student.model.layers[below] = live(tmp_path / "out").model.layers[below]
    sources = [live(family / name) for name in ("one", "two")]
    texts = open_family(recipe(), library, calibrator).texts
    name = QUERY.format(layer)
    query = student.get_parameter(name).requires_grad_()
    torch.autograd.backward(distance(student, sources, texts, layer))
    assert query.grad is not None
    base = library.model("base").read(name).float()
    expected = query.detach().clone()
    for source in sources:
        delta = source.get_parameter(name) - base
        # Adam's first step is as long as its rate, whatever the gradient.
        expected -= rate * (query.grad * delta).sign() * delta
    torch.testing.assert_close(read_all(tmp_path / "out")[name], expected, rtol=0, atol=1e-6)


def test_one_source_is_found_again(
    tmp_path: Path,
    family: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    # One coefficient a tensor: a few texts cannot determine that of every entry.
    settings = ProDistillSettings(rate=0.02, epochs=150, per="tensor")
    alone = recipe("one", parameters=ONE_IN_LAYERS)
    prodistill(alone, library, calibrator, settings, tmp_path / "out")
    found, one = live(tmp_path / "out"), live(family / "one")
    base = live(family / "base")
    for name, parameter in found.named_parameters():
        if ".layers." in name:
            delta = one.get_parameter(name) - base.get_parameter(name)
            moved = parameter - base.get_parameter(name)
            coefficient = float((moved * delta).sum() / delta.square().sum())
            assert coefficient == pytest.approx(1, abs=0.02), name


def test_a_coefficient_for_each_entry_brings_the_distance_near_to_zero(
    tmp_path: Path,
    family: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    alone = recipe("one", parameters=ONE_IN_LAYERS)
    export_checkpoint(alone, library, tmp_path / "merged")
    settings = ProDistillSettings(rate=0.02, epochs=100)
    prodistill(alone, library, calibrator, settings, tmp_path / "out")
    texts = open_family(alone, library, calibrator).texts
    one = live(family / "one")
    for layer in range(2):
        before = distance(live(tmp_path / "merged"), [one], texts, layer)
        after = distance(live(tmp_path / "out"), [one], texts, layer)
        assert float(after) < 0.01 * float(before)


@pytest.mark.parametrize(
    ("per", "coefficients"), [("entry", (32, 32)), ("column", (1, 32)), ("tensor", (1, 1))]
)
def test_coefficients_may_be_shared(
    per: str,
    coefficients: tuple[int, int],
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    export_checkpoint(recipe("one"), library, tmp_path / "merged")
    settings = ProDistillSettings(rate=0.01, epochs=10, batch=1, per=per)
    prodistill(recipe("one"), library, calibrator, settings, tmp_path / "out")
    name = QUERY.format(0)
    delta = library.model("one").read(name).float() - library.model("base").read(name).float()
    moved = read_all(tmp_path / "out")[name] - read_all(tmp_path / "merged")[name]
    assert float(moved.abs().max()) > 0.001
    rows, columns = coefficients

    def sums(entries: Tensor) -> Tensor:
        return entries.reshape(rows, 32 // rows, columns, 32 // columns).sum(dim=(1, 3))

    fitted = sums(moved * delta) / sums(delta.square()).clamp(min=1e-12)
    torch.testing.assert_close(moved, fitted * delta, rtol=1e-3, atol=1e-6)


def test_a_layer_is_never_worse_than_the_merge(
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    export_checkpoint(recipe(), library, tmp_path / "merged")
    wild = ProDistillSettings(rate=1e3, epochs=2)
    prodistill(recipe(), library, calibrator, wild, tmp_path / "out")
    found, merged = read_all(tmp_path / "out"), read_all(tmp_path / "merged")
    for name in merged:
        assert torch.equal(found[name], merged[name])


def test_each_run_gives_the_same_bits(
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    settings = ProDistillSettings(epochs=3, batch=1)
    for name in ("first", "second"):
        torch.rand(1)  # numbers drawn elsewhere do not matter
        prodistill(recipe(), library, calibrator, settings, tmp_path / name)
    first, second = read_all(tmp_path / "first"), read_all(tmp_path / "second")
    for name in first:
        assert torch.equal(first[name], second[name])


def test_a_merge_that_overflows_is_one_line(
    tmp_path: Path, recipe: Recipe, library: SourceLibrary, calibrator: Calibrator
) -> None:
    huge = recipe(parameters={"weight": 1e25})
    with pytest.raises(EvaluationError, match=r"layer 0: the merge is \S+ away from its sources"):
        prodistill(huge, library, calibrator, ProDistillSettings(), tmp_path / "out")
