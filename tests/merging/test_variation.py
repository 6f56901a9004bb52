"""Operators that vary whole models see the same model however it is stored and cut into blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.layout import locate
from evomerge.merging.engine import merge_tensor
from evomerge.merging.operands import Operands
from evomerge.merging.plan import make_plan
from evomerge.operators.fuse import BLOCK
from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evomerge.recipe.merge import MergeRecipe

SHAPES = {
    "model.embed_tokens.weight": (50, 8),
    "model.layers.0.mlp.up_proj.weight": (BLOCK // 100 + 40, 100),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.up_proj.weight": (20, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
}


@pytest.fixture
def merge(
    recipe: Callable[..., MergeRecipe], draw: Callable[..., Tensor]
) -> Callable[..., tuple[list[dict[str, Tensor]], dict[str, Tensor]]]:
    """Merge models of `SHAPES`; gives the sources and the result, by tensor."""

    def run(operator: str, **parameters: Any) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        models = [
            {name: draw(shape, 10 * number + k) for k, (name, shape) in enumerate(SHAPES.items())}
            for number in range(3)
        ]
        base, *sources = models
        signatures = {name: (torch.float32, shape) for name, shape in SHAPES.items()}
        plan = make_plan(
            recipe("one", "two", operator=operator, parameters=parameters), signatures
        )
        operands = Operands(
            plan=plan, base=base.__getitem__, sources=[each.__getitem__ for each in sources]
        )
        merged = {}
        for job in plan.jobs:
            merged[job.name] = torch.empty(job.shape)
            merge_tensor(operands, job, merged[job.name])
        return sources, merged

    return run


def _flat(model: dict[str, Tensor]) -> Tensor:
    return torch.cat([model[name].reshape(-1) for name in sorted(model)])


@pytest.mark.parametrize("split", [0.0, 0.01, 0.97, 1.0])
def test_a_model_is_split_at_one_entry(merge: Callable[..., Any], split: float) -> None:
    (first, second), merged = merge("split_slerp", t=0.0, split=split)
    before, after = _flat(first), _flat(second)
    place = round(split * before.numel())
    expected = torch.cat([before[:place], after[place:]])
    assert torch.allclose(_flat(merged), expected, atol=1e-6)


def test_rows_of_a_tensor_of_several_blocks_move_as_a_whole(merge: Callable[..., Any]) -> None:
    (first, second), merged = merge("evolver", mutation=1, crossover=0.5, granularity="row")
    name = "model.layers.0.mlp.up_proj.weight"
    moved = merged[name] == second[name]
    assert torch.equal(merged[name] == first[name], ~moved)
    assert torch.equal(moved, moved[:, :1].expand_as(moved))
    own = draws(0, name, "0", "one").of_rows(SHAPES[name], torch.tensor(100))
    assert torch.equal(moved, own < 0.5)


def test_only_the_first_layer_comes_from_the_second_source(merge: Callable[..., Any]) -> None:
    (first, second), merged = merge("two_point_crossover", low=0, high=0.5)
    for name, tensor in merged.items():
        expected = second if locate(name).layer == 0 else first
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("granularity", ["layer", "component"])
def test_a_piece_is_inherited_from_one_source(merge: Callable[..., Any], granularity: str) -> None:
    (first, second), merged = merge("layer_crossover", granularity=granularity)
    pieces: dict[object, set[bool]] = {}
    for name, tensor in merged.items():
        place = locate(name)
        by_component = granularity == "component" or place.layer is None
        piece = (place.layer, place.component if by_component else None)
        from_first = torch.equal(tensor, first[name])
        assert from_first or torch.equal(tensor, second[name])
        pieces.setdefault(piece, set()).add(from_first)
    assert all(len(origins) == 1 for origins in pieces.values())
    assert set.union(*pieces.values()) == {False, True}
