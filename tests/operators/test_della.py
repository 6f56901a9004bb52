"""DELLA keeps large entries more often than small ones, row by row, and stays unbiased."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.operators.chunks import Chunks
from evomerge.operators.della import row_ranks
from evomerge.operators.randomness import draws
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TOY = [4.0, -1.0, 0.5, -3.0]
CHANCES = torch.tensor([0.77, 0.676667, 0.63, 0.723333], dtype=torch.float64)
ROWS = 20_000

merge = functools.partial(operating.merge, scale=1.0, weight=1.0, normalize=False)
both = pytest.mark.parametrize("name", ["della", "della_linear"])


def _ranks(row: list[float]) -> list[int]:
    order = sorted(range(len(row)), key=lambda place: abs(row[place]))
    return [order.index(place) for place in range(len(row))]


def _all_ranks(deltas: Tensor) -> tuple[Tensor, ...]:
    return tuple(row_ranks(Chunks.of(delta)) for delta in deltas)


@given(data=st.data(), count=st.integers(1, 5), length=st.integers(1, 40))
@settings(max_examples=60)
def test_ranks_count_the_smaller_entries_of_a_row_and_equal_ones_before(
    data: st.DataObject, count: int, length: int
) -> None:
    values = st.floats(-2, 2, width=16) | st.sampled_from([0.0, -0.0, 1.0, -1.0, torch.inf])
    row = st.lists(values, min_size=length, max_size=length)
    rows = data.draw(st.lists(row, min_size=count, max_size=count))
    expected = [_ranks(each) for each in rows]
    for dtype in (torch.float32, torch.float64):
        assert row_ranks(Chunks.of(torch.tensor(rows, dtype=dtype))).tolist() == expected


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (0, 3), (3, 0), (2, 3, 4)], ids=str)
def test_ranks_have_the_shape_of_the_task_vector(
    shape: tuple[int, ...], draw: Callable[..., Tensor]
) -> None:
    assert row_ranks(Chunks.of(draw(shape))).shape == shape


def test_ranks_of_long_rows_rise_to_as_much_as_a_float16_counts_to(
    draw: Callable[..., Tensor],
) -> None:
    length, delta = 70_000, draw((70_000,))
    ranks = row_ranks(Chunks.of(delta)).double()[delta.abs().argsort(stable=True)]
    exact = torch.arange(length, dtype=torch.float64) * 2048 / (length - 1)
    assert torch.equal(ranks, exact.half().double())


def test_the_chance_of_an_entry_rises_with_its_rank_in_its_row() -> None:
    deltas = torch.tensor(TOY, dtype=torch.float64).repeat(1, ROWS, 1)
    kept = merge("della_linear", deltas, density=0.7, epsilon=0.07, rescale="none") != 0
    # Four standard deviations of a binomial; the chances of two ranks differ by eight.
    slack = 4 * (CHANCES * (1 - CHANCES) / ROWS).sqrt()
    assert ((kept.double().mean(0) - CHANCES).abs() < slack).all()


def test_kept_entries_are_divided_by_their_chances() -> None:
    deltas = torch.tensor(TOY, dtype=torch.float64).repeat(1, 100, 1)
    merged = merge("della_linear", deltas, density=0.7, epsilon=0.07)
    largest = merged[merged.abs().argmax(dim=0), torch.arange(4)]
    assert largest.tolist() == pytest.approx([5.194805, -1.477833, 0.793651, -4.147465])
    assert ((merged == 0) | (merged == largest)).all()


def test_dividing_by_the_chances_is_unbiased() -> None:
    deltas = torch.tensor(TOY, dtype=torch.float64).repeat(1, ROWS, 1)
    mean = merge("della_linear", deltas, density=0.4, epsilon=0.3).mean(0)
    chances = torch.tensor([0.7, 0.3, 0.1, 0.5], dtype=torch.float64)
    deviation = deltas[0, 0].abs() * ((1 - chances) / chances / ROWS).sqrt()
    assert ((mean - deltas[0, 0]).abs() < 4 * deviation).all()


@pytest.mark.parametrize(
    ("della", "dare"), [("della", "dare_ties"), ("della_linear", "dare_linear")]
)
@pytest.mark.parametrize(
    ("rescale", "of_dare"), [("probability", "density"), ("norm", "norm"), ("none", "none")]
)
def test_without_a_window_it_is_dare(
    della: str, dare: str, rescale: str, of_dare: str, draw: Callable[..., Tensor]
) -> None:
    deltas = draw((3, 20, 10))
    arguments: dict[str, Any] = {"weight": (0.5, 0.3, 0.9), "density": 0.6, "normalize": True}
    ours = merge(della, deltas, epsilon=0.0, rescale=rescale, **arguments)
    assert torch.allclose(ours, merge(dare, deltas, rescale=of_dare, **arguments), atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 1), (1,), ()], ids=str)
def test_in_rows_of_one_entry_the_chance_is_the_density(shape: tuple[int, ...]) -> None:
    merged = merge("della_linear", torch.ones(1, *shape), density=0.7, epsilon=0.2)
    kept = draws(0, "tensor", "layer", "0").coarse(shape) < 0.7
    assert torch.allclose(merged, kept / 0.7)


def test_rescaling_to_the_norm_restores_it(draw: Callable[..., Tensor]) -> None:
    deltas = draw((1, 30, 20), dtype=torch.float64)
    merged = merge("della_linear", deltas, density=0.3, epsilon=0.1, rescale="norm")
    assert 0 < merged.count_nonzero() < 600
    assert merged.abs().sum().item() == pytest.approx(deltas.abs().sum().item())


@both
def test_density_one_drops_nothing_whatever_epsilon_is(
    name: str, draw: Callable[..., Tensor]
) -> None:
    deltas = draw((1, 30, 20))
    assert torch.equal(merge(name, deltas, density=1.0, epsilon=0.2), deltas[0])


@both
@pytest.mark.parametrize("rescale", ["probability", "norm", "none"])
def test_ranks_that_are_given_are_not_computed_again_but_the_same(
    name: str,
    rescale: str,
    draw: Callable[..., Tensor],
    same_bits: Callable[[Tensor, Tensor], bool],
) -> None:
    deltas, others = draw((2, 6, 9)), draw((2, 6, 9), seed=1)
    given = functools.partial(merge, name, deltas, rescale="none", density=0.5, epsilon=0.4)
    assert same_bits(given(ranks=_all_ranks(deltas)), given())
    assert not torch.equal(given(ranks=_all_ranks(others)), given())


@both
def test_with_ranks_given_it_merges_entry_by_entry(
    name: str, draw: Callable[..., Tensor], same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    deltas, function = draw((2, 60)), find_operator(name).function
    ranks = _all_ranks(deltas)
    own = [draws(0, "tensor", "layer", str(row)) for row in range(2)]
    arguments: dict[str, Any] = {
        "weight": (0.5, 0.9),
        "density": (0.4, 0.6),
        "epsilon": (0.1, 0.3),
        "measured": operating.measured(name, deltas, density=(0.4, 0.6), epsilon=(0.1, 0.3)),
    }
    blocks = [
        function(
            [delta[start:end] for delta in deltas],
            ranks=[each[start:end] for each in ranks],
            draws=[each.after(start) for each in own],
            **arguments,
        )
        for start, end in itertools.pairwise([0, 7, 31, 60])
    ]
    whole = function(deltas, ranks=ranks, draws=own, **arguments)
    assert same_bits(torch.cat(blocks), whole)


@both
def test_with_ranks_given_a_compiler_can_trace_it(
    name: str, draw: Callable[..., Tensor], same_bits: Callable[[Tensor, Tensor], bool]
) -> None:
    deltas = draw((2, 60))
    arguments: dict[str, Any] = {
        "ranks": _all_ranks(deltas),
        "density": (0.4, 1.0),
    }
    traced = merge(name, deltas, compiled=True, **arguments)
    assert same_bits(traced, merge(name, deltas, **arguments))


@both
@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.1), (0.1, 0.1), (0.95, 0.2), (0.0, 0.0)])
def test_chances_outside_of_zero_to_one_are_refused(
    name: str, density: float, epsilon: float
) -> None:
    check = find_operator(name).check
    assert check is not None
    with pytest.raises(MergeError, match="must lie between 0 and 1; lower epsilon"):
        check(weight=(1.0, 1.0), density=(0.5, density), epsilon=(0.1, epsilon), scale=1.0)


@both
def test_no_point_of_the_ranges_to_search_is_refused(name: str) -> None:
    operator = find_operator(name)
    ends = []
    for key in ("density", "epsilon"):
        search = operator.parameters[key].search
        assert search is not None
        ends.append((search.low, search.high))
    assert operator.check is not None
    for density, epsilon in itertools.product(*ends):
        operator.check(density=(density,), epsilon=(epsilon,))
