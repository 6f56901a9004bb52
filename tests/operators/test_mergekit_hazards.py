"""What mergekit 0.1.5 gets wrong without a word, and what we do there instead.

Misspelt keys of its YAML files, which it ignores, are among the documents of tests/recipe.
"""

from __future__ import annotations

import math

import pytest
import torch
from mergekit_process import MARKS, MergekitError, merge_with_mergekit
from operating import draw, merge
from pydantic import ValidationError
from torch import Tensor

from evomerge.errors import MergeError, RecipeError
from evomerge.operators.registry import find_operator
from evomerge.recipe.check import check_operator
from evomerge.recipe.merge import MergeRecipe

pytestmark = MARKS

ONE_TWO = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 5.0]])
"""A base and two models."""


def refusal(operator: str, **parameters: float) -> str:
    """What our check of a recipe says."""
    recipe = MergeRecipe.model_validate(
        {"base": "b", "sources": ["m"], "operator": operator, "parameters": parameters}
    )
    with pytest.raises(RecipeError) as caught:
        check_operator(recipe)
    return str(caught.value)


def test_weights_that_add_up_to_nothing_are_refused_where_mergekit_stores_infinity() -> None:
    weight = [1.0, -1.0, 0.0]
    theirs = merge_with_mergekit("linear", ONE_TWO, {"weight": weight}, base=False)
    assert theirs.isinf().all()
    check = find_operator("linear").check
    assert check is not None
    with pytest.raises(MergeError, match="add up to 0; cannot normalize"):
        check(weight=weight, normalize=True)


def test_weights_without_a_ratio_are_refused_where_mergekit_goes_half_way() -> None:
    weight = [1.0, -1.0]
    theirs = merge_with_mergekit("nuslerp", ONE_TWO, {"weight": weight}, base=True)
    assert torch.allclose(theirs, ONE_TWO[1:].mean(0), rtol=1e-2)
    check = find_operator("nuslerp").check
    assert check is not None
    with pytest.raises(MergeError, match="their sum must not be zero"):
        check(weight=weight)


def test_a_weight_that_is_no_number_is_refused_where_mergekit_stores_no_numbers() -> None:
    theirs = merge_with_mergekit("ties", ONE_TWO, {"weight": math.nan}, base=True)
    assert theirs.isnan().all()
    with pytest.raises(ValidationError, match="expected a finite number"):
        refusal("ties", weight=math.nan)


@pytest.mark.parametrize(
    ("method", "stack", "parameters"),
    [("slerp", ONE_TWO[:2], {"t": 1.5}), ("ties", ONE_TWO, {"weight": 1.0, "density": 1.5})],
    ids=["slerp", "ties"],
)
def test_numbers_that_mean_nothing_are_refused_where_mergekit_takes_them(
    method: str, stack: Tensor, parameters: dict[str, float]
) -> None:
    assert merge_with_mergekit(method, stack, parameters, base=True).isfinite().all()
    assert "1.5 is outside [0, 1]" in refusal(method, **parameters)


def test_an_unknown_parameter_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(MergekitError, match="Unknown parameter"):
        merge_with_mergekit("ties", ONE_TWO, {"weight": 1.0, "densty": 0.5}, base=True)
    assert "density" in refusal("ties", weight=1.0, densty=0.5)


def test_weights_of_both_signs_stretch_a_change_without_bounds_as_in_mergekit() -> None:
    """Opposite changes agree once weighted, and are divided by what is left of the weights.

    The formula is the same, so we keep it; searches vary weights from 0 to 1.
    """
    stack, weight = torch.tensor([[0.0], [1.0], [-1.0]]), (1.0, -0.99)
    theirs = merge_with_mergekit("ties", stack, {"weight": list(weight)}, base=True)
    arguments = {"weight": weight, "density": 1.0, "scale": 1.0}
    ours = merge("ties", stack[1:], normalize=True, **arguments)
    assert torch.equal(ours, theirs)
    assert float(ours) == pytest.approx(199, rel=1e-4)
    unnormalized = merge("ties", stack[1:], normalize=False, **arguments)
    assert float(unnormalized) == pytest.approx(1.99)
    search = find_operator("ties").parameters["weight"].search
    assert search is not None
    assert search.low >= 0


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_rows_of_one_entry_are_kept_by_chance_where_mergekit_divides_by_zero(method: str) -> None:
    stack = torch.stack([torch.zeros(200, 1), torch.ones(200, 1)])
    with pytest.raises(MergekitError, match="p_in"):
        merge_with_mergekit(method, stack, {"weight": 1.0, "density": 0.5}, base=True)
    arguments = {"weight": 1.0, "scale": 1.0, "normalize": False, "rescale": "none"}
    ours = merge(method, stack[1:], density=0.5, epsilon=0.15, **arguments)
    assert 70 < int(ours.sum()) < 130


@pytest.mark.parametrize("gamma", [0.0, 0.04])
def test_a_share_of_less_than_one_entry_drops_no_entry(gamma: float) -> None:
    """mergekit 0.1.4 dropped all of them then."""
    stack = torch.stack([torch.zeros(20), torch.arange(1.0, 21.0)])
    parameters = {"weight": 1.0, "density": 0.5, "gamma": gamma}
    theirs = merge_with_mergekit("breadcrumbs", stack, parameters, base=True)
    ours = merge("breadcrumbs", stack[1:], scale=1.0, normalize=False, **parameters)
    assert ours.tolist() == theirs.tolist() == [0.0] * 10 + [*range(11, 21)]


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_a_density_of_less_than_one_entry_keeps_what_mergekit_keeps(method: str) -> None:
    """TIES one entry, breadcrumbs none."""
    stack = torch.stack([torch.zeros(20), torch.arange(1.0, 21.0)])
    parameters = {"weight": 1.0, "density": 0.04}
    theirs = merge_with_mergekit(method, stack, parameters, base=True)
    gamma = {} if method == "ties" else {"gamma": 0.01}
    ours = merge(method, stack[1:], scale=1.0, normalize=False, **parameters, **gamma)
    assert ours.tolist() == theirs.tolist()
    assert int(ours.count_nonzero()) == (method == "ties")


def test_the_weight_of_a_single_model_counts_where_mergekit_forgets_it() -> None:
    parameters = {"weight": 0.5, "normalize_weights": False}
    theirs = merge_with_mergekit("multislerp", ONE_TWO[:2], parameters, base=True)
    assert theirs.tolist() == [1.0, 2.0]
    arguments = {"weight": 0.5, "normalize": False, "around": "base", "base": ONE_TWO[0]}
    ours = merge("multislerp", ONE_TWO[1:2], **arguments)
    assert ours.tolist() == pytest.approx([0.5, 1.0])


def test_models_like_the_base_are_the_base_where_mergekit_fails() -> None:
    stack = ONE_TWO[1:2].repeat(4, 1)
    with pytest.raises(MergekitError, match="weighted sum of the input tensors is zero"):
        merge_with_mergekit("multislerp", stack, {"weight": 1.0}, base=True)
    arguments = {"weight": 1.0, "normalize": True, "around": "base", "base": stack[0]}
    assert torch.equal(merge("multislerp", stack[1:], **arguments), stack[0])


def test_every_change_may_count_where_mergekit_divides_none_by_none() -> None:
    stack = ONE_TWO[1:2].repeat(2, 1)
    theirs = merge_with_mergekit("ramplus_tl", stack, {"epsilon": 0.0}, base=True)
    assert theirs.isnan().all()
    ours = merge("ramplus_tl", stack[1:] - stack[0], epsilon=0.0, r=0.1, alpha=0.2)
    assert ours.tolist() == [0.0, 0.0]


def test_small_changes_are_weighed_by_their_energy_where_mergekit_weighs_all_alike() -> None:
    """It does so below a mean square of 1e-6, that is for most fine-tunes."""
    stack = torch.tensor([[0.0, 0.0], [1e-4, 1e-4], [3e-4, 3e-4]])
    theirs = merge_with_mergekit("sce", stack, {}, base=True)
    assert theirs.tolist() == pytest.approx([2e-4] * 2)
    # By 1 to 9.
    ours = merge("sce", stack[1:], density=1.0)
    assert ours.tolist() == pytest.approx([2.8e-4] * 2)


def test_the_mean_of_close_siblings_is_what_mergekit_finds_in_double_precision() -> None:
    """In float32 the angles between fine-tunes of one base are noise.

    mergekit then goes astray by as much as the fine-tunes differ.
    """
    base = draw((64,), 10)
    stack = torch.stack([base, *(base + 3e-4 * draw((64,), seed) for seed in (60, 61))])
    sure = merge_with_mergekit("karcher", stack, {}, base=False, dtype=torch.float64)
    theirs = merge_with_mergekit("karcher", stack, {}, base=False)
    assert float((merge("karcher", stack) - sure).abs().max()) < 1e-6
    assert float((theirs - sure).abs().max()) > 1e-4
