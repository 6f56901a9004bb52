"""Promise: one pass over the weights tells how far, where and against whom each source moved."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import Checkpoint, open_checkpoint
from evomerge.errors import CompatibilityError, ModelError
from evomerge.sensitivity import family as family_module
from evomerge.sensitivity.family import FamilyStatistics, measure_family

if TYPE_CHECKING:
    from pathlib import Path

Open = "Callable[[str], Checkpoint]"


@pytest.fixture
def planted(opened: Open, relatives: Path) -> FamilyStatistics:
    names = ["one", str(relatives / "copy"), str(relatives / "mirror"), "two"]
    return measure_family(opened("base"), [opened(name) for name in names])


def test_a_copy_is_the_same_and_others_are_not(planted: FamilyStatistics) -> None:
    same = planted.whole().differing == 0
    assert [tuple(pair) for pair in same.nonzero().tolist()] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 2),
        (3, 3),
    ]


def test_a_mirror_is_all_conflict_where_it_moved_and_none_elsewhere(
    planted: FamilyStatistics,
) -> None:
    layers = planted.layers()
    assert float(layers["model.layers.1"].conflict[0, 2]) > 0.99
    assert float(layers["model.layers.1"].cosine[0, 2]) < -0.99
    assert float(layers["model.layers.0"].shared[0, 2]) == 0
    assert float(layers["model.layers.0"].changed[2]) == 0
    assert float(layers["model.layers.1"].weighted_conflict[0, 3]) == pytest.approx(0.5, abs=0.05)


def test_numbers_of_a_tensor_are_those_of_its_task_vectors(
    opened: Open, planted: FamilyStatistics
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    base, one, two = (opened(n).read(name).double().flatten() for n in ("base", "one", "two"))
    found = planted.tensors[name]
    assert float(found.norms[0]) == pytest.approx(float((one - base).norm()))
    assert float(found.relative_norms[0]) == pytest.approx(
        float((one - base).norm() / base.norm())
    )
    assert float(found.euclid[0, 3]) == pytest.approx(float((one - two).norm()))
    pair = torch.stack([one - base, two - base])
    assert float(found.pearson[0, 3]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]))


def test_layers_and_the_whole_are_sums_of_tensors(planted: FamilyStatistics) -> None:
    squares = sum(each.products[0, 0] for each in planted.tensors.values())
    assert float(planted.whole().norms[0]) == pytest.approx(float(squares) ** 0.5)
    layers = planted.layers()
    assert list(layers) == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]
    assert sum(float(each.entries) for each in layers.values()) == planted.whole().entries


def test_chunks_change_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    models = opened("base"), [opened("one"), opened("two")]
    whole = measure_family(*models).whole()
    monkeypatch.setattr(family_module, "CHUNK", 100)
    parts = measure_family(*models).whole()
    torch.testing.assert_close(parts.products, whole.products)
    assert torch.equal(parts.shared, whole.shared)
    assert torch.equal(parts.agreements, whole.agreements)


def test_an_adapter_moves_only_what_it_adapts(opened: Open, family: Path) -> None:
    found = measure_family(opened("base"), [opened(f"base+{family / 'lora'}")])
    moved = {name for name, each in found.tensors.items() if each.changed[0]}
    assert moved == {
        f"model.layers.{layer}.{module}.weight"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "mlp.up_proj")
    }


def altered(family: Path, folder: Path, name: str, tensor: torch.Tensor) -> Checkpoint:
    """The model `one` with another tensor in place of its own."""
    shutil.copytree(family / "one", folder / "altered")
    file = folder / "altered" / "model.safetensors"
    tensors = load_file(file) | {name: tensor}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return open_checkpoint("altered", root=folder)


def test_tensors_of_another_shape_are_left_out_and_named(
    opened: Open, family: Path, tmp_path: Path
) -> None:
    name = "model.embed_tokens.weight"
    other = altered(family, tmp_path, name, torch.ones(3, 32))
    found = measure_family(opened("base"), [opened("two"), other])
    assert found.left_out == (name,)
    assert name not in found.tensors


def test_models_with_nothing_in_common_are_refused(opened: Open, tmp_path: Path) -> None:
    shutil.copytree(opened("one").folder, tmp_path / "stranger")
    file = tmp_path / "stranger" / "model.safetensors"
    file.unlink()
    save_file({"other": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(CompatibilityError, match=r"\S+: shares no tensor with \S*base; give"):
        measure_family(opened("base"), [open_checkpoint("stranger", root=tmp_path)])


def test_a_model_that_is_not_finite_is_named_with_its_tensor(
    opened: Open, family: Path, tmp_path: Path
) -> None:
    name = "model.norm.weight"
    broken = altered(family, tmp_path, name, torch.full((32,), float("inf")))
    with pytest.raises(ModelError, match=r"altered: tensor model.norm.weight has NaN or infinite"):
        measure_family(opened("base"), [opened("two"), broken])


def test_progress_counts_entries(opened: Open) -> None:
    seen: list[tuple[int, int]] = []
    base = opened("base")
    measure_family(base, [opened("one")], progress=lambda *done: seen.append(done))
    total = seen[-1][1]
    assert seen[-1] == (total, total)
    assert len(seen) == len(base.headers)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
