"""RegMean solves a regression, and averages where the inputs say nothing."""

from __future__ import annotations

import operating
import pytest
import torch

from evomerge.errors import MergeError
from evomerge.operators.registry import find_operator


def _grams(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.mT @ inputs


def _error(weight: torch.Tensor, stack: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((inputs @ (stack - weight).mT) ** 2).sum())


def test_no_other_weight_answers_the_inputs_better() -> None:
    stack, inputs = (operating.draw(shape, 1, torch.float64) for shape in ((2, 3, 5), (2, 20, 5)))
    merged = operating.merge(
        "regmean", stack, weight=1.0, off_diagonal=1.0, cutoff=0.0, gram=_grams(inputs)
    )
    least = _error(merged, stack, inputs)
    for seed in range(10):
        other = merged + 0.01 * operating.draw((3, 5), seed, torch.float64)
        assert _error(other, stack, inputs) > least


@pytest.mark.parametrize("off_diagonal", [0.0, 0.5, 1.0])
def test_sources_of_equal_inputs_are_averaged(off_diagonal: float) -> None:
    stack = operating.draw((3, 4, 5), 1, torch.float64)
    gram = _grams(operating.draw((1, 20, 5), 2, torch.float64)).expand(3, 5, 5)
    merged = operating.merge(
        "regmean", stack, weight=1.0, off_diagonal=off_diagonal, cutoff=0.0, gram=gram
    )
    assert torch.allclose(merged, stack.mean(dim=0))


def test_inputs_that_never_occur_are_averaged() -> None:
    stack = operating.draw((2, 3, 4), 1, torch.float64)
    inputs = operating.draw((2, 20, 4), 2, torch.float64)
    inputs[:, :, 1] = 0
    merged = operating.merge("regmean", stack, weight=1.0, gram=_grams(inputs))
    assert torch.allclose(merged[:, 1], stack[:, :, 1].mean(dim=0))
    assert not torch.allclose(merged[:, 0], stack[:, :, 0].mean(dim=0))


def test_fewer_texts_than_inputs_give_the_weight_nearest_to_the_average() -> None:
    stack = operating.draw((2, 3, 6), 1, torch.float64)
    inputs = operating.draw((2, 2, 6), 2, torch.float64)
    merged = operating.merge("regmean", stack, weight=1.0, off_diagonal=1.0, gram=_grams(inputs))
    seen = inputs.reshape(4, 6)
    unseen = torch.linalg.svd(seen).Vh[4:]
    assert torch.allclose(merged @ unseen.mT, stack.mean(dim=0) @ unseen.mT)


def test_a_source_without_weight_does_not_count() -> None:
    stack = operating.draw((2, 3, 5), 1, torch.float64)
    gram = _grams(operating.draw((2, 20, 5), 2, torch.float64))
    merged = operating.merge("regmean", stack, weight=(1.0, 0.0), cutoff=0.0, gram=gram)
    assert torch.allclose(merged, stack[0])


def test_the_number_of_threads_does_not_matter() -> None:
    stack = operating.draw((2, 64, 96), 1)
    gram = _grams(operating.draw((2, 200, 96), 2))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(operating.merge("regmean", stack, weight=1.0, gram=gram))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_inner_products_that_are_not_finite_are_refused() -> None:
    gram = torch.full((1, 2, 2), torch.nan)
    with pytest.raises(MergeError, match="NaN or infinite"):
        operating.merge("regmean", torch.ones(1, 2, 2), weight=1.0, gram=gram)


def test_weights_that_are_all_zero_are_refused() -> None:
    check = find_operator("regmean").check
    assert check is not None
    with pytest.raises(MergeError, match="are all 0; give one source a weight"):
        check(weight=(0.0,), off_diagonal=0.9, cutoff=0.0)
