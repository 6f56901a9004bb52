"""A stacked model has the layers that its recipe lists, and a config that says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_family import build_family
from transformers import AutoModelForCausalLM

from evomerge.errors import MergeError, ModelError, RecipeError
from evomerge.layout import locate
from evomerge.merging.config import merged_config
from evomerge.merging.export import export_checkpoint
from evomerge.merging.plan import make_plan
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.origins import at_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

UP = "model.layers.{}.mlp.up_proj.weight"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
NAMES = [EMBEDDING, NORM, *(UP.format(layer) for layer in range(4))]
TENSORS = dict.fromkeys(NAMES, (torch.float32, (2, 3)))


def origins(recipe: MergeRecipe) -> dict[str, tuple[str | None, list[tuple[int, str]]]]:
    jobs = make_plan(recipe, TENSORS).jobs
    return {job.name: (job.base_tensor, list(job.source_tensors)) for job in jobs}


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        (UP.format(3), 11, UP.format(11)),
        ("h.0.attn.weight", 2, "h.2.attn.weight"),
        ("0.attn.weight", 2, "2.attn.weight"),
        ("layers.1.experts.3.w1.weight", 0, "layers.0.experts.3.w1.weight"),
    ],
)
def test_a_name_is_moved_to_another_layer(name: str, layer: int, expected: str) -> None:
    assert at_layer(name, layer) == expected


def test_slabs_lie_on_each_other_from_the_bottom_up(recipe: Callable[..., MergeRecipe]) -> None:
    found = origins(
        recipe(
            "one",
            "two",
            stack=[{"layers": {"one": [1, 3]}}, {"layers": {"two": [0, 1]}}],
            operator="linear",
        )
    )
    assert found == {
        EMBEDDING: (EMBEDDING, [(0, EMBEDDING)]),
        NORM: (NORM, [(1, NORM)]),
        UP.format(0): (UP.format(1), [(0, UP.format(1))]),
        UP.format(1): (UP.format(2), [(0, UP.format(2))]),
        UP.format(2): (UP.format(0), [(1, UP.format(0))]),
    }


def test_a_range_alone_is_that_of_all_sources_and_of_the_base(
    recipe: Callable[..., MergeRecipe],
) -> None:
    found = origins(recipe("one", "two", stack=[{"layers": [2, 3]}]))
    assert found[UP.format(0)] == (UP.format(2), [(0, UP.format(2)), (1, UP.format(2))])


def test_the_base_may_have_a_range_of_its_own(recipe: Callable[..., MergeRecipe]) -> None:
    slab = {"layers": {"two": [3, 4], "one": [2, 3], "base": [0, 1]}}
    found = origins(recipe("one", "two", stack=[slab]))
    assert found[UP.format(0)] == (UP.format(0), [(0, UP.format(2)), (1, UP.format(3))])


def test_an_empty_slab_says_only_where_the_last_tensors_come_from(
    recipe: Callable[..., MergeRecipe],
) -> None:
    stack = [{"layers": {"one": [0, 4]}}, {"layers": {"two": [0, 0]}}]
    found = origins(recipe("one", "two", stack=stack))
    assert found[NORM] == (NORM, [(1, NORM)])
    assert found[EMBEDDING] == (EMBEDDING, [(0, EMBEDDING)])
    assert {s for name in NAMES[2:] for s in found[name][1]} == {(0, name) for name in NAMES[2:]}


def test_rules_speak_of_the_layers_of_the_result(recipe: Callable[..., MergeRecipe]) -> None:
    rules = [{"value": 0.1, "layers": [0, 2]}, {"value": 0.9}]
    plan = make_plan(
        recipe(
            "one", stack=[{"layers": [2, 4]}, {"layers": [0, 4]}], parameters={"weight": rules}
        ),
        TENSORS,
    )
    weights = {job.name: job.arguments["weight"] for job in plan.jobs}
    assert [weights[UP.format(layer)] for layer in range(6)] == [(0.1,)] * 2 + [(0.9,)] * 4


def test_only_the_sources_of_a_slab_have_arguments(recipe: Callable[..., MergeRecipe]) -> None:
    two = {"model": "two", "parameters": {"weight": 0.7}}
    stack = [{"layers": {"one": [0, 1], "two": [0, 1]}}, {"layers": {"two": [1, 2]}}]
    jobs = make_plan(recipe("one", two, stack=stack, parameters={"weight": 0.2}), TENSORS).jobs
    weights = {job.name: job.arguments["weight"] for job in jobs}
    assert weights[UP.format(0)] == (0.2, 0.7)
    assert weights[UP.format(1)] == weights[NORM] == (0.7,)


def test_depth_goes_from_the_first_layer_of_the_result_to_its_last(
    recipe: Callable[..., MergeRecipe],
) -> None:
    jobs = make_plan(recipe("one", stack=[{"layers": [0, 4]}, {"layers": [0, 1]}]), TENSORS).jobs
    assert [job.depth for job in jobs if "mlp" in job.name] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ([], r"stack\n.*has no layer"),
        ([{"layers": {"one": [0, 0]}}], "has no layer"),
        ([{"layers": {"base": [0, 2]}}], "names no source"),
        ([{"layers": {"uno": [0, 2]}}], "stack.0.layers: 'uno' is no source; known: base, one, t"),
        ([{"layers": [2, 1]}], r"\[2, 1\] falls"),
        ([{"layers": {"one": [0, 2], "two": [0, 3]}}], r"equally long, found one \[0, 2\], two"),
    ],
)
def test_a_stack_that_makes_no_sense_is_refused(
    stack: Any, message: str, recipe: Callable[..., MergeRecipe]
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("one", "two", stack=stack)


def test_no_source_may_be_called_as_the_base_is_in_a_stack(
    recipe: Callable[..., MergeRecipe],
) -> None:
    with pytest.raises(ValueError, match="one is called 'base', which means the base model in a"):
        recipe("base", stack=[{"layers": [0, 2]}])


def test_layers_that_a_model_does_not_have_are_named(recipe: Callable[..., MergeRecipe]) -> None:
    with pytest.raises(MergeError, match=r"stack\.1: layers \[2, 6\] of one, which has 4 layers"):
        make_plan(recipe("one", stack=[{"layers": [0, 1]}, {"layers": [2, 6]}]), TENSORS)


def test_every_slab_has_as_many_sources_as_the_operator_takes(
    recipe: Callable[..., MergeRecipe],
) -> None:
    with pytest.raises(RecipeError, match=r"^stack\.0: slerp takes 2 sources, found 1$"):
        make_plan(
            recipe(
                "one",
                "two",
                operator="slerp",
                parameters={"t": 0.5},
                stack=[{"layers": {"one": [0, 1]}}, {"layers": [0, 4]}],
            ),
            TENSORS,
        )


def test_a_recipe_without_a_stack_keeps_its_digest(recipe: Callable[..., MergeRecipe]) -> None:
    assert digest(recipe("one")) == digest(recipe("one", stack=None, mergekit_compat=None))
    assert digest(recipe("one")) != digest(recipe("one", stack=[{"layers": [0, 2]}]))


# Real models


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    build_family(folder, layers=3, tied=False, dtype="float32")
    return folder


def outside(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in tensors if locate(name).layer is None]


def test_a_stacked_checkpoint_is_a_model_with_these_layers(
    deep: Path,
    family: Path,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    stacked = recipe(
        "one", "two", stack=[{"layers": {"one": [0, 3]}}, {"layers": {"two": [1, 3]}}]
    )
    export_checkpoint(stacked, SourceLibrary(deep), tmp_path / "out")
    found, one, two = read_all(tmp_path / "out"), read_all(deep / "one"), read_all(deep / "two")
    for layer, (source, old) in enumerate([(one, 0), (one, 1), (one, 2), (two, 1), (two, 2)]):
        assert torch.equal(found[UP.format(layer)], source[UP.format(old)]), layer
    assert torch.equal(found[EMBEDDING], one[EMBEDDING])
    assert torch.equal(found["lm_head.weight"], two["lm_head.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(model.model.layers) == 5
    with torch.inference_mode():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_task_vectors_of_a_slab_are_measured_from_the_base_s_layers(
    deep: Path, recipe: Callable[..., MergeRecipe], read_all: Callable[[Path], Any], tmp_path: Path
) -> None:
    stacked = recipe(
        "one",
        operator="task_arithmetic",
        parameters={"weight": 0.5},
        stack=[{"layers": {"one": [0, 1], "base": [2, 3]}}],
    )
    export_checkpoint(stacked, SourceLibrary(deep), tmp_path / "out")
    base, one = read_all(deep / "base")[UP.format(2)], read_all(deep / "one")[UP.format(0)]
    expected = base + (one - base) * 0.5
    assert torch.allclose(read_all(tmp_path / "out")[UP.format(0)], expected, rtol=0, atol=1e-7)


def test_a_base_without_these_layers_is_no_obstacle_to_an_average(
    deep: Path, family: Path, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    # The base of this family has two layers.
    stack = [{"layers": {"deep": [2, 3], "deep too": [1, 2]}}]
    sources = [
        {"model": str(deep / "one"), "name": "deep"},
        {"model": str(deep / "two"), "name": "deep too"},
    ]
    plan = SourceLibrary(family).plan(recipe(*sources, stack=stack))
    job = next(job for job in plan.jobs if job.name == UP.format(0))
    assert (job.base_tensor, job.dtype) == (None, torch.float32)
    with pytest.raises(MergeError, match="ties needs the base model, which has no such layer"):
        SourceLibrary(family).plan(
            recipe(*sources, stack=stack, operator="ties", parameters={"weight": 1})
        )


def test_a_stacked_merge_may_be_a_source_and_a_base(
    deep: Path, recipe: Callable[..., MergeRecipe], read_all: Callable[[Path], Any], tmp_path: Path
) -> None:
    library = SourceLibrary(deep)
    inner = recipe("one", stack=[{"layers": [0, 3]}, {"layers": [0, 3]}])
    outer = recipe(
        {"recipe": inner, "name": "inner", "parameters": {"weight": 2}},
        operator="task_arithmetic",
        base_recipe=recipe("base", "one", stack=None),
        stack=[{"layers": {"inner": [3, 6], "base": [0, 3]}}],
    )
    export_checkpoint(outer, library, tmp_path / "out")
    base, one = read_all(deep / "base"), read_all(deep / "one")
    for layer in range(3):
        middle = (base[UP.format(layer)] + one[UP.format(layer)]) / 2
        expected = middle + 2 * (one[UP.format(layer)] - middle)
        found = read_all(tmp_path / "out")[UP.format(layer)]
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_lists_with_an_entry_for_each_layer_follow_their_layers(
    deep: Path, recipe: Callable[..., MergeRecipe], tmp_path: Path
) -> None:
    for name in ("base", "one"):
        (tmp_path / name).mkdir()
        for file in (deep / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        config = json.loads((deep / name / "config.json").read_text())
        config |= {
            "layer_types": [f"{name} {layer}" for layer in range(3)],
            "mlp_only_layers": [1],
            "eos_token_id": [0, 1, 2],
            "text_config": {"num_hidden_layers": 3, "window": [1, 2, 3], "size": [1, 2]},
        }
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    stacked = MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": [{"model": "base", "name": "zero"}, "one"],
            "operator": "linear",
            "stack": [{"layers": {"zero": [1, 3]}}, {"layers": {"one": [1, 2]}}],
        }
    )
    config = merged_config(stacked, SourceLibrary(tmp_path))
    assert config["num_hidden_layers"] == 3
    assert config["layer_types"] == ["base 1", "base 2", "one 1"]
    assert config["mlp_only_layers"] == [0, 2]
    assert config["eos_token_id"] == [0, 1, 2]
    assert config["text_config"] == {
        "num_hidden_layers": 3,
        "window": [2, 3, 2],
        "size": [1, 2],
    }


def test_a_model_that_stays_loaded_cannot_be_stacked(
    family: Path, recipe: Callable[..., MergeRecipe]
) -> None:
    with pytest.raises(ModelError, match="stack: a model that stays loaded keeps its layers; exp"):
        ResidentWeights({}, SourceLibrary(family)).merge(recipe("one", stack=[{"layers": [0, 2]}]))
