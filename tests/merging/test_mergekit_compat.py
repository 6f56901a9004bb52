"""Merges for mergekit's bytes compute, draw and store as it does; an oracle tests the bytes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import MergeError, RecipeError
from evomerge.merging.engine import merge_tensor
from evomerge.merging.mergekit_compat.merge import METHODS, merge
from evomerge.merging.mergekit_compat.sums import SPARSIFIERS
from evomerge.merging.plan import make_plan
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.registry import operators
from evomerge.recipe.mergekit import names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe

UP = "model.layers.0.mlp.up_proj.weight"
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def tensor(*values: float, dtype: torch.dtype = BF16) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def merged(name: str, *tensors: Tensor, **arguments: Any) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return merge(name, tensors[0], tensors[1:], arguments, rng)


def test_there_is_an_operator_for_every_method_of_mergekit() -> None:
    variants = {"nuslerp_lines", "model_stock_rows"}
    assert METHODS.keys() | SPARSIFIERS.keys() == names.METHODS.keys() | variants
    assert METHODS.keys() | SPARSIFIERS.keys() <= operators().keys()


def test_weights_are_rounded_to_the_dtype_of_the_tensors() -> None:
    # 0.3 is 0.30078125 in bfloat16.
    found = merged(
        "task_arithmetic", tensor(0), tensor(256), weight=(0.3,), scale=1.0, normalize=False
    )
    assert found.item() == 77


def test_sums_are_rounded_at_each_step() -> None:
    # In bfloat16, 256 + 1 is 256.
    arguments = {"weight": (1.0, 1.0), "scale": 1.0, "normalize": False}
    found = merged("task_arithmetic", tensor(0), tensor(256), tensor(1), **arguments)
    assert found.item() == 256


def test_just_as_many_entries_are_kept_as_the_density_says() -> None:
    delta = torch.ones(10)
    arguments = {"weight": (1.0,), "density": (0.3,), "scale": 1.0, "normalize": False}
    assert merged("ties", torch.zeros(10), delta, **arguments).count_nonzero() == 3


def test_what_random_masks_drop_is_made_up_for_in_the_norm() -> None:
    delta = torch.ones(1000)
    arguments = {"weight": (1.0,), "density": (0.5,), "scale": 1.0, "normalize": False}
    found = merged("dare_linear", torch.zeros(1000), delta, rescale="norm", **arguments)
    assert float(found.sum()) == pytest.approx(1000, rel=1e-5)
    assert 400 < found.count_nonzero() < 600


@pytest.mark.parametrize(
    ("operator", "dtype", "expected"),
    [
        ("task_arithmetic", None, F32),
        ("task_arithmetic", "float16", F16),
        ("arcee_fusion", "bfloat16", F32),
        ("ramplus_tl", "float16", F32),
        ("ram", "float16", F16),
    ],
)
def test_what_is_stored_is_what_the_arithmetic_gives(
    operator: str, dtype: str | None, expected: torch.dtype, recipe: Callable[..., MergeRecipe]
) -> None:
    weight = {"parameters": {"weight": 1}} if operator == "task_arithmetic" else {}
    made = recipe("one", "two", operator=operator, mergekit_compat={"dtype": dtype}, **weight)
    signatures = [{UP: (stored, (2, 2))} for stored in (BF16, F16, BF16)]
    (job,) = make_plan(made, signatures[0], signatures[1:]).jobs
    assert job.dtype == expected
    assert job.compute == (F32 if dtype is None else getattr(torch, dtype))


def test_the_recipe_may_choose_what_is_stored(recipe: Callable[..., MergeRecipe]) -> None:
    made = recipe("one", dtype="float16", mergekit_compat={"dtype": "float32"})
    (job,) = make_plan(made, {UP: (BF16, (2, 2))}).jobs
    assert (job.dtype, job.compute) == (F16, F32)


@pytest.mark.parametrize("operator", ["dare_linear", "della"])
def test_random_numbers_do_not_depend_on_the_order_in_which_tensors_are_merged(
    operator: str, family: Path, recipe: Callable[..., MergeRecipe]
) -> None:
    made = recipe(
        "one",
        "two",
        operator=operator,
        parameters={"weight": 0.5, "density": [{"value": 1, "layers": [0, 1]}, {"value": 0.5}]}
        | {"rescale": "norm"}
        | ({"epsilon": 0.1} if operator == "della" else {}),
        mergekit_compat={},
        seed=4,
    )

    def merge_all(*, shuffled: bool) -> dict[str, Tensor]:
        operands = SourceLibrary(family).operands(made)
        jobs = list(operands.plan.jobs)
        if shuffled:
            random.Random(1).shuffle(jobs)
        found = {job.name: torch.empty(job.shape, dtype=job.dtype) for job in jobs}
        for job in jobs:
            merge_tensor(operands, job, found[job.name])
        return found

    first, second = merge_all(shuffled=False), merge_all(shuffled=True)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_draws_other_masks(family: Path, recipe: Callable[..., MergeRecipe]) -> None:
    def merge_one(seed: int) -> Tensor:
        parameters = {"weight": 1, "density": 0.5, "rescale": "norm"}
        made = recipe(
            "one", operator="dare_linear", parameters=parameters, mergekit_compat={}, seed=seed
        )
        operands = SourceLibrary(family).operands(made)
        job = next(job for job in operands.plan.jobs if job.name == UP)
        out = torch.empty(job.shape, dtype=job.dtype)
        merge_tensor(operands, job, out)
        return out

    assert torch.equal(merge_one(1), merge_one(1))
    assert not torch.equal(merge_one(1), merge_one(2))


def test_a_model_of_nan_is_refused_where_mergekit_would_write_it(
    family: Path, recipe: Callable[..., MergeRecipe]
) -> None:
    one = {"model": "one", "parameters": {"weight": 1}}
    two = {"model": "two", "parameters": {"weight": -1}}
    with pytest.raises(MergeError, match="add up to 0; cannot normalize"):
        SourceLibrary(family).operands(recipe(one, two, mergekit_compat={}))


@pytest.mark.parametrize(
    ("operator", "parameters", "message"),
    [
        ("consensus", {}, "mergekit_compat: mergekit has no operator consensus"),
        ("dare_ties", {"weight": 1}, "rescale: mergekit has only norm and none, found 'density'"),
    ],
)
def test_what_mergekit_cannot_do_is_refused(
    operator: str,
    parameters: dict[str, Any],
    message: str,
    recipe: Callable[..., MergeRecipe],
) -> None:
    made = recipe("one", operator=operator, parameters=parameters, mergekit_compat={})
    with pytest.raises(RecipeError, match=message):
        make_plan(made, {UP: (BF16, (2, 2))})


def test_dtypes_that_mergekit_cannot_bring_together_are_named(
    recipe: Callable[..., MergeRecipe],
) -> None:
    made = recipe("one", "two", parameters={"weight": 1}, mergekit_compat={})
    stored = [{UP: (dtype, (2, 2))} for dtype in (BF16, torch.float8_e4m3fn)]
    with pytest.raises(MergeError, match="cannot merge bfloat16 and float8_e4m3fn; give a dtype"):
        make_plan(made, stored[0], stored)
