"""Numbers drawn for an operator look random and depend on their names and place alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.operators.randomness import Draws, draws

SIZE = 100_000
STEPS = 1 << 24
words = st.integers(0, 2**32 - 1)


def _draws(tensor: str = "tensor", source: str = "one", seed: int = 0, layer: str = "0") -> Draws:
    return draws(seed, tensor, layer, source)


def _uneven(numbers: Tensor, bins: int) -> float:
    """How many standard deviations a chi-square statistic is away from what is expected."""
    counts = torch.bincount(numbers.long(), minlength=bins).double()
    expected = len(numbers) / bins
    statistic = ((counts - expected).square() / expected).sum().item()
    return abs(statistic - (bins - 1)) / math.sqrt(2 * (bins - 1))


CHOICES = [("a", 0), ("model.layers.0.mlp.up_proj.weight", 0), ("b", 1), ("c", 7)]


@pytest.mark.parametrize(("tensor", "stream"), CHOICES)
def test_numbers_are_uniform_in_their_high_and_low_bits(tensor: str, stream: int) -> None:
    numbers = _draws(tensor).uniform((SIZE,), stream)
    steps = (numbers.double() * STEPS).long()
    assert torch.equal(steps.double() / STEPS, numbers.double())
    assert _uneven(steps >> 16, 256) < 5
    assert _uneven(steps & 255, 256) < 5


@pytest.mark.parametrize("lag", [1, 2, 64, 1024])
def test_a_number_tells_nothing_about_later_ones(lag: int) -> None:
    cells = (_draws().uniform((SIZE,)) * 16).long()
    assert _uneven(cells[:-lag] * 16 + cells[lag:], 256) < 5


OTHERS = {
    "tensor": _draws(tensor="another").uniform((SIZE,)),
    "source": _draws(source="two").uniform((SIZE,)),
    "seed": _draws(seed=1).uniform((SIZE,)),
    "stream": _draws().uniform((SIZE,), 1),
    "next stream": _draws().uniform((SIZE,), 2),
    "coarse": _draws().coarse((SIZE,)),
    "place": _draws().after(SIZE).uniform((SIZE,)),
    "far place": _draws().after(1 << 24).uniform((SIZE,)),
}


@pytest.mark.parametrize(
    ("first", "second"),
    itertools.combinations([_draws().uniform((SIZE,)), *OTHERS.values()], 2),
    ids=[f"{a}, {b}" for a, b in itertools.combinations(["these", *OTHERS], 2)],
)
def test_numbers_of_other_names_streams_and_places_are_independent(
    first: Tensor, second: Tensor
) -> None:
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(SIZE)
    assert _uneven((first * 16).long() * 16 + (second * 16).long(), 256) < 5


def test_layers_draw_independently_and_uniformly() -> None:
    numbers = torch.cat([_draws(layer=str(layer)).of_layer(1) for layer in range(2000)])
    assert _uneven((numbers * 16).long(), 16) < 5
    correlation = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(2000)


def test_all_tensors_of_a_layer_draw_the_same_and_other_layers_do_not() -> None:
    here, there = _draws("one").of_layer(4), _draws("two").of_layer(4)
    assert torch.equal(here, there)
    assert not torch.equal(here, _draws(layer="1").of_layer(4))
    assert not torch.equal(here, _draws(source="two").of_layer(4))
    assert not torch.equal(here, _draws().of_layer(4, stream=1))


@given(size=st.integers(0, 300), cuts=st.sets(st.integers(0, 300)), start=st.integers(0, 2**40))
@settings(max_examples=60)
def test_numbers_do_not_depend_on_how_a_tensor_is_cut(
    size: int, cuts: set[int], start: int
) -> None:
    own, length = _draws().after(start), torch.tensor(7)
    places = sorted({min(cut, size) for cut in cuts} | {0, size})
    for draw in (
        lambda each, shape: each.uniform(shape),
        lambda each, shape: each.normal(shape),
        lambda each, shape: each.of_rows(shape, length),
        lambda each, shape: each.coarse(shape),
        lambda each, shape: each.kept(shape, 0.3),
    ):
        blocks = [draw(own.after(a), (b - a,)) for a, b in itertools.pairwise(places)]
        assert torch.equal(torch.cat([draw(own, (0,)), *blocks]), draw(own, (size,)))


def test_numbers_are_in_row_major_order_whatever_the_shape() -> None:
    assert torch.equal(_draws().uniform((3, 4, 5)).view(-1), _draws().uniform((60,)))
    assert torch.equal(_draws().uniform(()), _draws().uniform((1,))[0])


def test_blocks_of_a_tensor_share_its_own_numbers() -> None:
    assert torch.equal(_draws().after(1000).of_tensor(3), _draws().of_tensor(3))
    assert not torch.equal(_draws("another").of_tensor(3), _draws().of_tensor(3))


def test_entries_of_a_row_share_a_number_and_rows_do_not() -> None:
    numbers = _draws().of_rows((50, 6), torch.tensor(6))
    assert torch.equal(numbers, numbers[:, :1].expand(50, 6))
    assert numbers[:, 0].unique().numel() == 50


keys = st.tuples(words, words.map(lambda word: word | 1))
starts = st.integers(0, 2**40)


def _word(key: tuple[int, int], index: int, stream: int) -> int:
    step = key[1] * (2 * stream + 1)
    word = (key[0] + stream + index * step) % 2**32
    word = (word ^ word >> 16) * 0x21F0AAAD % 2**32
    word = (word ^ word >> 15) * 0x735A2D97 % 2**32
    return word ^ word >> 15


def _after(key: tuple[int, int], start: int) -> Draws:
    own = torch.tensor(key)
    none = torch.zeros(3, dtype=torch.int32)
    return Draws(own, own, torch.tensor(0), none).after(start)


@given(key=keys, start=starts, stream=st.integers(0, 2**20))
def test_a_number_is_the_hash_of_its_place_in_the_sequence(
    key: tuple[int, int], start: int, stream: int
) -> None:
    number = (_word(key, start, stream) >> 8) / STEPS
    assert _after(key, start).uniform((1,), stream).item() == number


@given(key=keys, start=starts, chance=st.floats(0, 1))
def test_coarse_numbers_are_halves_of_words_and_decide_what_is_kept(
    key: tuple[int, int], start: int, chance: float
) -> None:
    word = _word(key, start // 2, 0x2545F491)
    number = (word >> 16 * (start % 2) & 0xFFFF) / 2**16
    assert _after(key, start).coarse((1,)).item() == number
    assert _after(key, start).kept((1,), chance).item() == (number < chance)


def test_as_many_are_kept_as_their_chance_says() -> None:
    for chance in (0.0, 1e-3, 0.3, 0.5, 0.999, 1.0):
        kept = _draws().kept((SIZE,), chance).mean().item()
        assert kept == pytest.approx(chance, abs=5 * math.sqrt(chance * (1 - chance) / SIZE))


def test_the_numbers_are_pinned_so_that_old_recipes_rebuild_the_same_models() -> None:
    own = draws(0, "model.norm.weight", "norm", "one")
    far = own.after(2**31)
    drawn = [own.uniform((3,)), own.uniform((3,), 1), own.of_layer(3), far.uniform((3,))]
    assert [(numbers * STEPS).int().tolist() for numbers in drawn] == PINNED
    assert (own.coarse((3,)) * 2**16).int().tolist() == PINNED_COARSE
    assert own.normal((3,)).tolist() == PINNED_NORMAL


PINNED = [
    [401534, 3883051, 1351691],
    [6532171, 7170145, 13067422],
    [13382409, 6463466, 5697104],
    [7091083, 13790585, 6414701],
]
PINNED_COARSE = [54139, 26534, 34410]
PINNED_NORMAL = [-1.9785497188568115, -0.7340868711471558, -1.4012677669525146]


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    numbers = _draws().normal((SIZE,)).double()
    # The k-th moment of a standard normal number is (k - 1)!! or 0, its variance (2k - 1)!! less
    # the moment's square.
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        slack = 5 * math.sqrt(variance / SIZE)
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=slack)


def test_the_number_of_threads_does_not_matter() -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(torch.cat([_draws().uniform((SIZE,)), _draws().normal((SIZE,))]))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.slow
def test_a_compiled_loop_draws_the_same_bits() -> None:
    def everything(own: Draws) -> Tensor:
        rows = own.of_rows((5000,), torch.tensor(30))
        uniform, normal = own.uniform((5000,)), own.normal((5000,), 3)
        coarse, kept = own.coarse((5000,)), own.kept((5000,), torch.tensor(0.3))
        return torch.stack([uniform, normal, rows, coarse, kept])

    compiled = torch.compile(everything, dynamic=True, fullgraph=True)
    for own in (_draws(), _draws("another").after(2**32 - 101)):
        assert torch.equal(compiled(own), everything(own))
