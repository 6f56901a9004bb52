"""A generator depends on its seed and its names, and on nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from evomerge.operators.randomness import generator


def _numbers(seed: int, *names: str) -> list[float]:
    return torch.rand(4, generator=generator(seed, *names)).tolist()


def test_the_same_seed_and_names_draw_the_same_numbers() -> None:
    assert _numbers(1, "tensor", "source") == _numbers(1, "tensor", "source")


def test_the_numbers_are_pinned_so_that_old_recipes_rebuild_the_same_models() -> None:
    assert generator(0, "model.norm.weight", "one").initial_seed() == PINNED


PINNED = 1589662974


@pytest.mark.parametrize(
    ("first", "second"),
    itertools.combinations(
        [
            (0, "a", "b"),
            (1, "a", "b"),
            (0, "b", "a"),
            (0, "ab"),
            (0, "a"),
            (0, "a", ""),
            (0,),
            (2**32, "a", "b"),
        ],
        2,
    ),
    ids=str,
)
def test_any_other_seed_or_names_draw_other_numbers(
    first: tuple[int, str], second: tuple[int, str]
) -> None:
    assert _numbers(*first) != _numbers(*second)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    _numbers(3, "x")
    assert torch.equal(torch.random.get_rng_state(), before)
