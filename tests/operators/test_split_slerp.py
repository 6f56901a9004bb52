"""The split interpolation sees one long vector per model, however it is stored."""

from __future__ import annotations

import math

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

finite = st.integers(-64, 64).map(lambda n: n / 16)


def _reference(first: list[float], second: list[float], t: float, split: float) -> list[float]:
    norms = [math.sqrt(sum(x * x for x in each)) or 1.0 for each in (first, second)]
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / math.prod(norms)
    child = []
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        way = t if index < round(split * len(first)) else 1 - t
        if abs(cosine) > 0.9995:
            child.append((1 - way) * a + way * b)
        else:
            angle = math.acos(cosine)
            parts = math.sin((1 - way) * angle) * a + math.sin(way * angle) * b
            child.append(parts / math.sin(angle))
    return child


def _merge(model: Tensor, sizes: list[int], t: float, split: float) -> Tensor:
    """Merge flat models that are stored as tensors of some sizes."""
    stacks = model.split(sizes, dim=1)
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    return torch.cat(
        [
            operating.merge(
                "split_slerp", stack, t=t, split=split, stacks=stacks, offset=torch.tensor(offset)
            )
            for stack, offset in zip(stacks, offsets, strict=True)
        ]
    )


@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    t=st.floats(0, 1),
    split=st.floats(0, 1),
)
@settings(max_examples=60)
def test_the_child_is_what_the_paper_says(
    data: st.DataObject, sizes: list[int], t: float, split: float
) -> None:
    row = st.lists(finite, min_size=sum(sizes), max_size=sum(sizes))
    first, second = data.draw(row), data.draw(row)
    child = _merge(torch.tensor([first, second], dtype=torch.float64), sizes, t, split)
    assert child.tolist() == pytest.approx(_reference(first, second, t, split), abs=1e-9)


def test_the_split_may_fall_inside_a_tensor() -> None:
    model = torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4], dtype=torch.float64)
    before, after = math.sin(math.pi / 8), math.cos(math.pi / 8)
    child = _merge(model, [3, 5], 0.75, 0.25)
    expected = [before] * 2 + [after] * 2 + [before] * 4
    assert child.tolist() == pytest.approx(expected)


def test_a_tensor_that_is_merged_in_blocks_is_split_at_the_same_entry() -> None:
    model = operating.draw((2, 10))
    measured = operating.measured("split_slerp", model, t=0.2, split=0.45)
    blocks = [
        operating.merge(
            "split_slerp", model[:, a:b], t=0.2, measured=measured, offset=torch.tensor(a)
        )
        for a, b in [(0, 3), (3, 8), (8, 10)]
    ]
    assert torch.equal(torch.cat(blocks), _merge(model, [10], 0.2, 0.45))
    assert measured[4] == 4


@pytest.mark.parametrize(("t", "source"), [(0.0, 0), (1.0, 1)])
def test_at_the_ends_entries_are_exchanged_at_the_split(t: float, source: int) -> None:
    model = operating.draw((2, 10), dtype=torch.float64)
    expected = torch.cat([model[source, :4], model[1 - source, 4:]])
    assert torch.allclose(_merge(model, [10], t, 0.4), expected)
