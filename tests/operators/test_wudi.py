"""WUDI minimises interference: by linear equations, or step by step towards their solution."""

from __future__ import annotations

import operating
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def interference(merged, deltas):
    """The loss of the paper, written with loops."""
    loss = torch.zeros(())
    for delta in deltas:
        for column in delta:
            loss = loss + ((merged - delta) @ column).square().sum() / delta.square().sum()
    return loss


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (9, 5)])
def test_nothing_interferes_less(draw, shape):
    deltas = draw((3, *shape), 1, torch.float64)
    merged = operating.merge("wudi", deltas, weight=1.0, scale=1.0, cutoff=0.0)
    merged.requires_grad_()
    least = interference(merged, deltas)
    least.backward()
    assert merged.grad.abs().max() < 1e-9
    for seed in range(5):
        elsewhere = merged.detach() + 0.1 * draw(shape, seed, torch.float64)
        assert interference(elsewhere, deltas) >= least


@given(data=st.data(), sources=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_sources_that_use_different_inputs_are_added_up(data, sources):
    used = data.draw(st.permutations(range(6)))
    deltas = torch.zeros(sources, 3, 6)
    for row in range(sources):
        columns = used[row * 2 : row * 2 + 2]
        deltas[row][:, columns] = operating.draw((3, 2), row + 1)
    merged = operating.merge("wudi", deltas, weight=1.0, scale=1.0)
    assert torch.allclose(merged, deltas.sum(0), atol=1e-5)


def test_weights_scale_the_sources(draw):
    deltas = draw((2, 4, 3), 2, torch.float64)
    weighted = torch.stack([deltas[0] * 2, deltas[1] * -0.5])
    for name in ("wudi", "wudi_iterative"):
        merged = operating.merge(name, deltas, weight=[2.0, -0.5])
        assert torch.allclose(merged, operating.merge(name, weighted, weight=1.0)), name


def test_a_source_that_changed_nothing_does_not_count(draw):
    deltas = draw((2, 4, 3), 2, torch.float64)
    alone = operating.merge("wudi", deltas[:1], weight=1.0)
    deltas[1] = 0
    assert torch.allclose(operating.merge("wudi", deltas, weight=1.0), alone)


def test_inputs_hardly_used_do_not_make_the_solution_explode():
    # Almost one row space: in the direction (1, -1) the equations amplify what is left.
    deltas = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0 + 1e-5]]], dtype=torch.float64)
    deltas[1] *= 5
    exact = operating.merge("wudi", deltas, weight=1.0, scale=1.0, cutoff=0.0)
    stable = operating.merge("wudi", deltas, weight=1.0, scale=1.0, cutoff=1e-6)
    assert exact.abs().max() > 1e4
    assert stable.abs().max() < 10


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_steps_are_those_of_torchs_adam_on_the_papers_loss(draw, steps):
    deltas = draw((2, 4, 5), 3, torch.float64)
    merged = deltas.sum(0).requires_grad_()
    adam = torch.optim.Adam([merged], lr=0.002)
    for _ in range(steps):
        adam.zero_grad()
        interference(merged, deltas).backward()
        adam.step()
    found = operating.merge(
        "wudi_iterative", deltas, weight=1.0, scale=1.0, steps=float(steps), rate=0.002
    )
    assert torch.allclose(found, merged.detach(), atol=1e-9)


def test_more_steps_interfere_less_and_never_less_than_the_solution(draw):
    deltas = draw((3, 5, 4), 4, torch.float64)
    losses = [
        interference(
            operating.merge(
                "wudi_iterative", deltas, weight=1.0, scale=1.0, steps=steps, rate=0.01
            ),
            deltas,
        )
        for steps in (0.0, 50.0, 200.0, 1000.0)
    ]
    solution = operating.merge("wudi", deltas, weight=1.0, scale=1.0)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] >= interference(solution, deltas) - 1e-12
