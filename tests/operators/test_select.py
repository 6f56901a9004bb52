"""An order statistic is what sorting would give, without sorting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.chunks import Chunks
from evomerge.operators.select import SAMPLE, order_statistic
from evomerge.operators.sparsify import trim

if TYPE_CHECKING:
    from torch import Tensor

few_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, math.inf, -math.inf])
LARGE = 3 * SAMPLE + 17


def _large(kind: str) -> Tensor:
    numbers = operating.draw((LARGE,))
    return {
        "all different": numbers,
        "rounded": numbers.round(),
        "all alike": torch.full((LARGE,), 2.0),
        "nearly all alike": torch.where(numbers > 3, numbers, 0.0),
        "sorted": numbers.sort().values,
        "two infinities": torch.where(numbers.abs() > 1, numbers * torch.inf, numbers),
    }[kind]


KINDS = ["all different", "rounded", "all alike", "nearly all alike", "sorted", "two infinities"]


@given(values=st.lists(few_values, min_size=1, max_size=40), data=st.data())
@settings(max_examples=100)
def test_it_is_the_entry_that_sorting_puts_there(values: list[float], data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    cut = data.draw(st.integers(0, len(values)))
    parts = [torch.tensor(values[:cut]), torch.tensor(values[cut:])]
    assert order_statistic(parts, rank).item() == sorted(values)[rank]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 1, LARGE // 3, LARGE // 2, LARGE - 2, LARGE - 1])
def test_it_is_the_same_where_only_a_sample_is_sorted(kind: str, rank: int) -> None:
    numbers = _large(kind)
    assert order_statistic([numbers], rank) == numbers.sort().values[rank]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_any_number_and_shape_are_seen_as_one(kind: str) -> None:
    numbers = _large(kind)
    first, matrix, rest = numbers.split([1, SAMPLE, LARGE - SAMPLE - 1])
    parts = [numbers[:0], first, matrix.view(128, -1), rest]
    whole = order_statistic([numbers], LARGE // 5)
    assert order_statistic(parts, LARGE // 5) == whole
    assert order_statistic([part.reshape(-1) for part in reversed(parts)], LARGE // 5) == whole


def test_a_model_of_many_small_tensors_is_more_than_its_sample() -> None:
    numbers = operating.draw((LARGE,))
    found = order_statistic(numbers.split(10), LARGE // 4)
    assert found == numbers.sort().values[LARGE // 4]


@pytest.mark.parametrize("size", [1, 100, LARGE])
def test_of_chunks_it_is_the_magnitude_of_the_task_vector(size: int) -> None:
    source, base = operating.draw((size,)).bfloat16(), operating.draw((size,), 1).bfloat16()
    expected = (source.float() - base.float()).abs().sort().values[size // 2]
    assert order_statistic(Chunks(source, base, torch.float32), size // 2) == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_an_order_that_the_sample_does_not_show_is_found_all_the_same(sign: int) -> None:
    """Every entry that is sampled is large (or small), and nearly all others are not."""
    numbers = torch.zeros(LARGE)
    numbers[:: LARGE // SAMPLE | 1] = 1
    numbers[LARGE // 2 :: 5] += 2
    numbers *= sign
    expected = numbers.sort().values
    for rank in range(0, LARGE, 6007):
        assert order_statistic([numbers], rank) == expected[rank]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    found = order_statistic([torch.tensor([3.0, 1 / 3, 2.0], dtype=dtype)], 0)
    assert (found.dtype, found.shape) == (dtype, ())
    assert found == torch.tensor(1 / 3, dtype=dtype)


@pytest.mark.parametrize("size", [5, LARGE])
def test_what_is_no_number_comes_before_all_numbers(size: int) -> None:
    numbers = torch.arange(float(size))
    numbers[[0, size // 2]] = torch.nan
    found = [order_statistic([numbers], rank) for rank in (0, 1, 2, size - 1)]
    assert [each.isnan().item() for each in found] == [True, True, False, False]
    assert (found[2], found[3]) == (1, size - 1)


@given(
    values=st.lists(st.sampled_from([math.nan, 0.0, 1.0, -2.0, math.inf]), min_size=1),
    data=st.data(),
)
def test_what_is_no_number_survives_trimming_at_any_rank(
    values: list[float], data: st.DataObject
) -> None:
    """The engine refuses a result that is not finite; a NaN that is trimmed would pass."""
    delta = torch.tensor(values)
    rank = data.draw(st.integers(0, len(values) - 1))
    trimmed = trim(delta, order_statistic([delta.abs()], rank))
    assert trimmed[delta.isnan()].isnan().all()
