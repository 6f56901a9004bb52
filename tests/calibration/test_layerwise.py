"""Layers are solved from bottom to top, each on what the layers below it now make."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_architectures import SIZES, build, save

from evomerge.calibration.family import open_family
from evomerge.calibration.featcal import FeatCalSettings, featcal
from evomerge.calibration.prodistill import ProDistillSettings, prodistill
from evomerge.calibration.regmean_plus_plus import RegMeanPlusPlusSettings, regmean_plus_plus
from evomerge.checkpoints import open_checkpoint
from evomerge.errors import OutputError
from evomerge.live_model import load_checkpoint
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.randomness import generator
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.sensitivity.calibration import Document
    from evomerge.sensitivity.provider import Calibrator

    Recipe = Callable[..., MergeRecipe]
    ReadAll = Callable[[Path], dict[str, Tensor]]

QUERY = "model.layers.{}.self_attn.q_proj.weight"
METHODS: list[tuple[Any, Any]] = [
    (featcal, FeatCalSettings(anchor=1.0)),
    (regmean_plus_plus, RegMeanPlusPlusSettings()),
    (prodistill, ProDistillSettings(epochs=2)),
]
every_method = pytest.mark.parametrize(
    ("method", "settings"), METHODS, ids=["featcal", "regmean", "prodistill"]
)


def live(folder: Path) -> Any:
    checkpoint = open_checkpoint(folder.name, root=folder.parent)
    return load_checkpoint(checkpoint, torch.float32, torch.device("cpu"))[0]


def hidden(model: Any, text: Document, layer: int) -> Tensor:
    """What a layer of a model reads, shape `(tokens, width)`."""
    with torch.no_grad():
        found = model(input_ids=text.ids[None], output_hidden_states=True).hidden_states
    return found[layer][0]


def normed(model: Any, states: Tensor, layer: int) -> Tensor:
    """What the queries of a layer read."""
    with torch.no_grad():
        found: Tensor = model.model.layers[layer].input_layernorm(states)
    return found


@pytest.mark.parametrize("layer", [0, 1])
def test_featcal_solves_each_layer_on_the_calibrated_layers_below(
    layer: int,
    family: Path,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    settings = FeatCalSettings(ridge=0.05, anchor=1.7, teacher=0.3)
    featcal(recipe(), library, calibrator, settings, tmp_path / "out")
    export_checkpoint(recipe(), library, tmp_path / "merged")
    result, merged = live(tmp_path / "out"), live(tmp_path / "merged")
    name = QUERY.format(layer)
    left = right = torch.zeros(())
    for number, source in enumerate(("one", "two")):
        expert = live(family / source)
        own = shared = torch.zeros(())
        for text in open_family(recipe(), library, calibrator).texts[number]:
            reads = normed(result, hidden(result, text, layer), layer).double()
            wants = normed(expert, hidden(expert, text, layer), layer).double()
            own = own + reads.T @ reads
            shared = shared + reads.T @ (0.3 * wants + 0.7 * reads)
        left = left + own / own.norm()
        right = right + shared @ expert.get_parameter(name).double().T / own.norm()
    base = library.model("base").read(name).double()
    anchor = base + 1.7 * (merged.get_parameter(name).double() - base)
    left = left + 0.05 * torch.eye(len(left))
    expected = torch.linalg.solve(left, right + 0.05 * anchor.T).T
    torch.testing.assert_close(result.get_parameter(name), expected.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", [0, 1])
def test_regmean_reads_through_each_source_what_the_merged_layers_make(
    layer: int,
    family: Path,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    settings = RegMeanPlusPlusSettings(off_diagonal=0.7)
    regmean_plus_plus(recipe(), library, calibrator, settings, tmp_path / "out")
    result = live(tmp_path / "out")
    name = QUERY.format(layer)
    left = right = torch.zeros(())
    for number, source in enumerate(("one", "two")):
        expert = live(family / source)
        gram = torch.zeros(())
        for text in open_family(recipe(), library, calibrator).texts[number]:
            reads = normed(expert, hidden(result, text, layer), layer).double()
            gram = gram + reads.T @ reads
        gram = 0.7 * gram + 0.3 * gram.diagonal().diag()
        left = left + gram
        right = right + expert.get_parameter(name).double() @ gram
    expected = torch.linalg.solve(left, right, left=False)
    torch.testing.assert_close(result.get_parameter(name), expected.float(), rtol=1e-3, atol=1e-3)


def test_an_endless_pull_gives_the_anchor(
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    settings = FeatCalSettings(ridge=1e9, anchor=1.0)
    featcal(recipe(), library, calibrator, settings, tmp_path / "out")
    export_checkpoint(recipe(), library, tmp_path / "merged")
    found, merged = read_all(tmp_path / "out"), read_all(tmp_path / "merged")
    assert found.keys() == merged.keys()
    for name in merged:
        torch.testing.assert_close(found[name], merged[name])


@every_method
def test_sources_that_are_the_merge_are_left_alone(
    method: Any,
    settings: Any,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    alone = recipe("one", parameters={"weight": 1})
    method(alone, library, calibrator, settings, tmp_path / "out")
    for name, found in read_all(tmp_path / "out").items():
        source = library.model("one").read(name).float()
        torch.testing.assert_close(found, source, rtol=1e-4, atol=1e-5)


def test_biases_are_solved_too(
    tmp_path: Path, family: Path, texts: dict[str, str], calibrator: Calibrator, read_all: ReadAll
) -> None:
    model = build("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"vocab_size": 300})
    for seed, name in enumerate(("base", "one")):
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator(seed, name))
                parameter.add_(noise * 0.1)
        save(model, tmp_path / name)
        for file in (family / "base").glob("tokenizer*"):
            shutil.copy(file, tmp_path / name)
    library = SourceLibrary(tmp_path)
    half = MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": ["one"],
            "operator": "task_arithmetic",
            "parameters": {"weight": 0.5},
            "calibration": {"texts": texts["one"]},
        }
    )
    settings = FeatCalSettings(anchor=1.0, ridge=0.001)
    featcal(half, library, calibrator, settings, tmp_path / "out")
    found, one = read_all(tmp_path / "out"), read_all(tmp_path / "one")
    export_checkpoint(half, library, tmp_path / "merged")
    merged = read_all(tmp_path / "merged")
    biases = [name for name in found if name.endswith(".bias")]
    assert len(biases) == 6
    for name in biases:
        assert not torch.allclose(found[name], merged[name], atol=1e-4)
    alone = half.model_copy(update={"parameters": {"weight": 1.0}})
    featcal(alone, library, calibrator, settings, tmp_path / "alone")
    unchanged = read_all(tmp_path / "alone")
    for name in biases:
        torch.testing.assert_close(unchanged[name], one[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings"),
    [(featcal, FeatCalSettings()), (prodistill, ProDistillSettings(epochs=20))],
    ids=["featcal", "prodistill"],
)
def test_answers_come_nearer_to_those_of_the_sources(
    method: Any,
    settings: Any,
    tmp_path: Path,
    family: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    export_checkpoint(recipe(), library, tmp_path / "merged")
    method(recipe(), library, calibrator, settings, tmp_path / "out")
    texts = open_family(recipe(), library, calibrator).texts

    def distance(folder: Path) -> float:
        model, total = live(folder), 0.0
        for own, source in zip(texts, ("one", "two"), strict=True):
            expert = live(family / source)
            for text in own:
                with torch.no_grad():
                    ours, theirs = (m(input_ids=text.ids[None]).logits for m in (model, expert))
                total += float((ours - theirs).square().mean())
        return total

    assert distance(tmp_path / "out") < 0.8 * distance(tmp_path / "merged")


@every_method
def test_what_is_written_is_a_whole_model_in_the_dtype_of_the_recipe(
    method: Any,
    settings: Any,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
    read_all: ReadAll,
) -> None:
    done: list[tuple[int, int]] = []
    method(
        recipe(dtype="base"),
        library,
        calibrator,
        settings,
        tmp_path / "out",
        files={"note.txt": b"hello"},
        progress=lambda *each: done.append(each),
    )
    assert done == [(1, 2), (2, 2)]
    tensors = read_all(tmp_path / "out")
    assert tensors.keys() == library.model("base").headers.keys()
    assert {each.dtype for each in tensors.values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "note.txt").read_bytes() == b"hello"
    for name in ("config.json", "tokenizer.json"):
        content = (library.model("base").folder / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == content
    assert live(tmp_path / "out").config.num_hidden_layers == 2


@every_method
def test_a_folder_that_is_taken_is_refused(
    method: Any,
    settings: Any,
    tmp_path: Path,
    recipe: Recipe,
    library: SourceLibrary,
    calibrator: Calibrator,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError, match="out: is there already"):
        method(recipe(), library, calibrator, settings, tmp_path / "out")
