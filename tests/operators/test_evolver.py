"""The Evolver's child is made of its parents, entry by entry, and never leaves their box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from torch import Tensor

finite = st.floats(-(2.0**100), 2.0**100, width=32)
fractions = st.floats(0, 1)


class Given(NamedTuple):
    """Chances that are not drawn."""

    chances: Tensor

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return self.chances.view(shape)


def test_an_entry_moves_where_its_chance_is_below_the_crossover() -> None:
    own = Given(torch.tensor([0.1, 0.6, 0.4, 0.9]))
    child = operating.merge(
        "evolver",
        [[0, 0, 0, 0], [1, 2, 3, 4]],
        mutation=0.5,
        crossover=0.5,
        granularity="scalar",
        draws=[own, own],
    )
    assert child.tolist() == [0.5, 0, 1.5, 0]


@given(data=st.data(), size=st.integers(1, 20), mutation=fractions, crossover=fractions)
@settings(max_examples=100)
def test_every_entry_stays_between_its_parents_to_the_last_bit(
    data: st.DataObject, size: int, mutation: float, crossover: float
) -> None:
    rows = st.lists(st.lists(finite, min_size=size, max_size=size), min_size=2, max_size=2)
    parents = torch.tensor(data.draw(rows))
    child = operating.merge("evolver", parents, mutation=mutation, crossover=crossover)
    assert ((child >= parents.amin(0)) & (child <= parents.amax(0))).all()


def test_moving_all_the_way_gives_the_second_parent_bit_for_bit() -> None:
    parents = operating.draw((2, 500)) * torch.tensor([[1.0], [1e-3]])
    assert torch.equal(operating.merge("evolver", parents, mutation=1, crossover=1), parents[1])


@pytest.mark.parametrize("granularity", ["scalar", "row", "tensor", "layer"])
def test_parents_that_are_alike_have_a_child_like_them(granularity: str) -> None:
    parent = operating.draw((4, 5))
    parents = parent.repeat(2, 1, 1)
    child = operating.merge("evolver", parents, mutation=0.7, granularity=granularity)
    assert torch.equal(child, parent)


def _moved(granularity: str, shape: tuple[int, ...], **arguments: Any) -> Tensor:
    parents = torch.stack([torch.zeros(shape), torch.ones(shape)])
    return operating.merge("evolver", parents, mutation=1, granularity=granularity, **arguments)


def test_scalars_move_by_themselves_as_often_as_the_crossover_says() -> None:
    share = _moved("scalar", (200, 200), crossover=0.3).mean().item()
    # Four standard deviations of 40,000 entries.
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 40_000) ** 0.5)


def test_rows_move_as_a_whole() -> None:
    moved = _moved("row", (400, 3), crossover=0.5)
    assert torch.equal(moved, moved[:, :1].expand(400, 3))
    assert 150 < moved[:, 0].sum() < 250


def test_a_stack_of_matrices_has_the_rows_of_all_of_them() -> None:
    moved = _moved("row", (5, 80, 3), crossover=0.5)
    assert torch.equal(moved.view(400, 3), _moved("row", (400, 3), crossover=0.5))


def test_rows_that_are_cut_by_a_block_still_move_as_a_whole() -> None:
    whole = _moved("row", (4, 10), crossover=0.5).view(-1)
    own = draws(0, "tensor", "layer", "0")
    length = {"row_length": torch.tensor(10)}
    parts = [
        _moved("row", (size,), crossover=0.5, draws=[own.after(start)] * 2, **length)
        for start, size in [(0, 7), (7, 16), (23, 17)]
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("granularity", ["tensor", "layer"])
def test_a_tensor_moves_as_a_whole(granularity: str) -> None:
    moved = [_moved(granularity, (6, 4), crossover=0.5, seed=seed) for seed in range(9)]
    assert {tensor.sum().item() for tensor in moved} == {0, 24}


def _draws(tensor: str) -> list[Any]:
    return [draws(3, tensor, "7", str(row)) for row in range(2)]


def test_the_tensors_of_a_layer_move_together_or_not_at_all() -> None:
    names = [f"tensor {number}" for number in range(12)]
    together = [_moved("layer", (1,), crossover=0.5, draws=_draws(name)).item() for name in names]
    apart = [_moved("tensor", (1,), crossover=0.5, draws=_draws(name)).item() for name in names]
    assert len(set(together)) == 1
    assert len(set(apart)) == 2
