"""A library opens each model once; an adapter or another candidate is a source like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import MergeError, ModelError
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe

EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
KEY = "model.layers.1.self_attn.k_proj.weight"

NESTED: list[dict[str, Any]] = [
    {"operator": "linear"},
    {"operator": "ties", "parameters": {"weight": 0.7, "density": 0.5}},
    {"operator": "dare_linear", "parameters": {"weight": 0.7, "density": 0.5}, "seed": 3},
    {"operator": "task_arithmetic", "parameters": {"weight": 0.7}, "dtype": "float32"},
]


def test_a_model_is_opened_once(library: SourceLibrary) -> None:
    assert library.model("one") is library.model("one")


def test_a_model_that_is_not_there_is_refused(library: SourceLibrary) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        library.model("nowhere")


def test_signatures_tell_dtype_and_shape(library: SourceLibrary) -> None:
    assert library.signatures("base")[QUERY] == (torch.bfloat16, (32, 32))


def test_readers_come_in_the_order_of_the_sources(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    operands = library.operands(recipe("two", "one"))
    assert torch.equal(operands.base(QUERY), library.model("base").read(QUERY))
    for read, name in zip(operands.sources, ("two", "one"), strict=True):
        assert torch.equal(read(QUERY), library.model(name).read(QUERY))


def test_an_adapter_on_the_base_changes_the_tensors_it_targets(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    operands = library.operands(recipe("base+lora"))
    (adapted,) = operands.sources
    assert not torch.equal(adapted(QUERY), operands.base(QUERY))
    assert torch.equal(adapted(KEY), operands.base(KEY))


@pytest.mark.parametrize("nested", NESTED, ids=lambda fields: fields["operator"])
def test_a_recipe_as_a_source_gives_what_merging_its_exported_checkpoint_gives(
    nested: dict[str, Any],
    family: Path,
    tmp_path: Path,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], dict[str, Tensor]],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    inner = recipe("one", "two", **nested)
    library = SourceLibrary(family)
    export_checkpoint(inner, library, tmp_path / "inner")
    on_disk = {"model": str(tmp_path / "inner"), "name": "inner"}
    in_full = {"recipe": inner.model_dump(), "name": "inner"}
    for number, source in enumerate((on_disk, in_full)):
        outer = recipe(
            source,
            "three",
            operator="dare_ties",
            parameters={"weight": 0.6, "density": 0.8},
        )
        export_checkpoint(outer, library, tmp_path / f"outer-{number}")
    first, second = (read_all(tmp_path / f"outer-{number}") for number in range(2))
    assert first.keys() == second.keys()
    assert all(same_bits(first[name], second[name]) for name in first)


def test_a_candidate_is_looked_up_by_its_digest(
    family: Path, recipe: Callable[..., MergeRecipe]
) -> None:
    inner = recipe("one", "two")
    library = SourceLibrary(family, find_candidate={digest(inner): inner}.__getitem__)
    (by_digest,) = library.operands(recipe({"candidate": digest(inner)})).sources
    (in_full,) = library.operands(recipe({"recipe": inner.model_dump()})).sources
    assert torch.equal(by_digest(QUERY), in_full(QUERY))


def test_a_candidate_outside_its_run_is_refused(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    with pytest.raises(ModelError, match="source candidate abc: only known inside its run; write"):
        library.operands(recipe({"candidate": "abc"}))


def test_a_nested_base_without_a_tensor_is_explained(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    (read,) = library.operands(recipe({"recipe": recipe("one").model_dump()})).sources
    with pytest.raises(
        ModelError, match=r"^base, the base of a source that is a recipe: has no t"
    ):
        read("no.such.tensor")


def test_what_goes_wrong_in_a_nested_merge_names_the_tensor(
    library: SourceLibrary, recipe: Callable[..., MergeRecipe]
) -> None:
    inner = recipe("one", "two", parameters={"weight": 0})
    with pytest.raises(MergeError, match=r"^tensor .*: weight: .* cannot normalize$"):
        library.operands(recipe({"recipe": inner.model_dump()}))
