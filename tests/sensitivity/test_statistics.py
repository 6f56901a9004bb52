"""Promise: a model is measured once for the same texts, under the names of its own tensors."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import EvaluationError, ModelError
from evomerge.live_model import load_checkpoint
from evomerge.sensitivity import statistics
from evomerge.sensitivity.activations import gram
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration
from evomerge.sensitivity.gradients import fisher
from evomerge.sensitivity.statistics import Kind, statistic

if TYPE_CHECKING:
    from pathlib import Path

Open = "Callable[[str], Checkpoint]"


@pytest.mark.parametrize("kind", ["fisher", "sensitivity", "gram", "activation"])
def test_tensors_have_the_checkpoints_names_and_the_promised_shapes(
    opened: Open, calibration: Calibration, cache: StatisticsCache, kind: Kind
) -> None:
    checkpoint = opened("one")
    found = statistic(kind, checkpoint, calibration, cache)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    weights = {name: header.shape for name, header in checkpoint.headers.items()}
    linear = {name: shape[1] for name, shape in weights.items() if "_proj" in name}
    assert (
        shapes
        == {
            "fisher": weights,
            "sensitivity": dict.fromkeys(weights, ()),
            "gram": {name: (width, width) for name, width in linear.items()},
            "activation": {name: (width,) for name, width in linear.items()},
        }[kind]
    )
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_the_stored_values_are_those_measured(
    opened: Open, calibration: Calibration, cache: StatisticsCache, live: tuple[Any, Any]
) -> None:
    model, tokenizer = live
    names = [name for name, _ in model.named_parameters()]
    expected = fisher(model, names, calibration.documents(tokenizer))
    found = statistic("fisher", opened("one"), calibration, cache)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_second_request_reads_no_model(
    family: Path, tmp_path: Path, calibration: Calibration, cache: StatisticsCache
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(family / "one", folder)
    checkpoint = open_checkpoint("model", root=tmp_path)
    first = dict(statistic("activation", checkpoint, calibration, cache))
    shutil.rmtree(folder)
    again = statistic("activation", checkpoint, calibration, cache)
    assert all(torch.equal(again[name], first[name]) for name in first)
    with pytest.raises(ModelError, match="transformers cannot load it"):
        statistic("gram", checkpoint, calibration, cache)


def test_a_changed_text_length_or_model_is_measured_anew(
    opened: Open, calibration: Calibration, cache: StatisticsCache
) -> None:
    variants = [
        (opened("one"), calibration),
        (opened("one"), Calibration(texts=("other text",))),
        (opened("one"), Calibration(texts=calibration.texts, max_tokens=2)),
        (opened("two"), calibration),
    ]
    found = [dict(statistic("activation", *variant, cache)) for variant in variants]
    name = "model.layers.0.mlp.up_proj.weight"
    values = {tuple(each[name].tolist()) for each in found}
    assert len(values) == len(variants)
    assert len(list(cache.folder.glob("activation-*/statistic.json"))) == len(variants)


def test_an_adapter_is_measured_as_if_it_were_merged(
    opened: Open, family: Path, calibration: Calibration, cache: StatisticsCache
) -> None:
    adapted = opened(f"base+{family / 'lora'}")
    model, tokenizer = load_checkpoint(adapted, torch.float32, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, adapted.read(name).float())
    name = "model.layers.1.mlp.up_proj.weight"
    found = statistic("gram", adapted, calibration, cache)[name]
    assert torch.equal(found, gram(model, [name], calibration.documents(tokenizer))[name])
    base = statistic("gram", opened("base"), calibration, cache)[name]
    assert not torch.allclose(found, base, rtol=1e-2)


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_sums_that_do_not_fit_are_taken_in_several_runs_with_the_same_result(
    opened: Open,
    calibration: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
) -> None:
    whole = statistic(kind, opened("one"), calibration, StatisticsCache(tmp_path / "whole"))
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 4 * 48 * 48)
    seen: list[tuple[int, int]] = []
    parts = statistic(
        kind,
        opened("one"),
        calibration,
        StatisticsCache(tmp_path / "parts"),
        progress=lambda done, total: seen.append((done, total)),
    )
    total = seen[-1][1]
    assert total > 2 * len(calibration.texts)
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert parts.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])


def test_a_model_that_is_not_finite_is_named(
    family: Path, tmp_path: Path, calibration: Calibration, cache: StatisticsCache
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(family / "one", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] *= float("nan")
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    broken = open_checkpoint("broken", root=tmp_path)
    with pytest.raises(EvaluationError, match=r"broken: the fisher of .* is not finite"):
        statistic("fisher", broken, calibration, cache)


def test_a_missing_gpu_is_one_line(
    opened: Open, calibration: Calibration, cache: StatisticsCache
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="device cuda is not available"):
        statistic("gram", opened("one"), calibration, cache, device="cuda")
