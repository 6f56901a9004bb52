"""Differential evolution crosses a model with a mutant, and the child is never a mere copy."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.randomness import draws

entries = st.integers(-64, 64).map(lambda n: n / 8)


@given(
    data=st.data(),
    size=st.integers(1, 20),
    mutation=st.integers(0, 16).map(lambda n: n / 8),
    crossover=st.integers(0, 16).map(lambda n: n / 16),
)
@settings(max_examples=30)
def test_the_child_is_what_the_paper_says(
    data: st.DataObject, size: int, mutation: float, crossover: float
) -> None:
    row = st.lists(entries, min_size=size, max_size=size)
    target, mutated, plus, minus = rows = data.draw(st.lists(row, min_size=4, max_size=4))
    chances = draws(0, "tensor", "layer", "0").uniform((size,)).tolist()
    expected = [
        mutated[k] + mutation * (plus[k] - minus[k])
        if k == 0 or chances[k] < crossover
        else target[k]
        for k in range(size)
    ]
    child = operating.merge("de_rand_1", rows, mutation=mutation, crossover=crossover)
    assert child.tolist() == expected


def test_a_block_that_is_not_the_first_has_no_forced_entry() -> None:
    sources = torch.tensor([[0.0] * 6, *[[1.0] * 6] * 3])
    own = draws(0, "tensor", "layer", "0")
    child = operating.merge("de_rand_1", sources, crossover=0, draws=[own.after(6)] * 4)
    assert child.tolist() == [0] * 6


def test_as_many_entries_as_the_crossover_says_come_from_the_mutant() -> None:
    sources = torch.tensor([0.0, 1, 1, 1])[:, None].expand(4, 40_000)
    share = operating.merge("de_rand_1", sources, crossover=0.3).mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 40_000) ** 0.5)
