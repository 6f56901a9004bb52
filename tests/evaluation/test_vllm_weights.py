"""Promise: weights that vLLM fuses, pads or copies are found exactly, or the model is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from evomerge.errors import ModelError
from evomerge.evaluation.backends.vllm_weights import check_use, stored_views

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

TOKENS, WIDTH, PADDED = 5, 3, 8
TEXT = torch.tensor([1, 4, 2, 3])


class Stored:
    """The part of a checkpoint that is asked for, in memory."""

    reference = "stored"

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.tensors = {
            name: torch.randn(shape, generator=rng).bfloat16()
            for name, shape in {
                "embed.weight": (TOKENS, WIDTH),
                "layers.0.gate.weight": (4, WIDTH),
                "layers.0.up.weight": (2, WIDTH),
                "head.weight": (TOKENS, WIDTH),
            }.items()
        }
        self.headers = dict.fromkeys(self.tensors)

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


class Engine(nn.Module):
    """A model that fuses two tensors and pads the table of tokens, as vLLM does.

    Args:
        stored: What it loads.
        head: The weight that predicts, made of the table; by default the table itself.
    """

    def __init__(self, stored: Stored, head: Any = lambda table: table) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(PADDED, WIDTH), requires_grad=False)
        self.fused = nn.Parameter(torch.empty(6, WIDTH), requires_grad=False)
        self.load_weights(stored.tensors.items())
        self._head = head(self.table)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if name == "embed.weight":
                self.table[:TOKENS].data.copy_(tensor)
                self.table[TOKENS:].data.fill_(0)
            elif "gate" in name:
                self.fused.data.narrow(0, 0, 4).copy_(tensor)
            elif "up" in name:
                self.fused.data[4:] = tensor

    def nats(self) -> float:
        hidden = self.table[TEXT[:-1]]
        gate, up = (hidden @ self.fused.T).split([4, 2], dim=1)
        hidden = hidden + torch.cat([gate.exp(), up], dim=1)[:, :WIDTH] + up.sum(1, keepdim=True)
        logits = hidden @ self._head[:TOKENS].T
        return float(nn.functional.cross_entropy(logits, TEXT[1:]))


@pytest.fixture
def stored() -> Stored:
    return Stored()


def find(engine: Engine, stored: Stored) -> dict[str, Tensor]:
    return stored_views(engine, stored)  # type: ignore[arg-type]


def test_every_loaded_tensor_is_a_view_of_the_parameter_that_holds_it(stored: Stored) -> None:
    engine = Engine(stored)
    views = find(engine, stored)
    assert views.keys() == stored.tensors.keys() - {"head.weight"}
    for name, view in views.items():
        assert torch.equal(view, stored.tensors[name].float())
        view.fill_(7)
    assert (engine.fused == 7).all()
    assert (engine.table[:TOKENS] == 7).all()
    assert (engine.table[TOKENS:] == 0).all()


def test_looking_for_them_writes_nothing(stored: Stored) -> None:
    engine = Engine(stored)
    engine.table[TOKENS:] = 3
    find(engine, stored)
    assert (engine.table[TOKENS:] == 3).all()


def test_a_parameter_that_was_changed_after_it_was_loaded_is_refused(stored: Stored) -> None:
    engine = Engine(stored)
    engine.fused[0] *= 2
    with pytest.raises(ModelError, match=r"stored: .* fused does not hold layers.0.gate.weight"):
        find(engine, stored)


def test_a_parameter_that_was_given_up_is_refused(stored: Stored) -> None:
    engine = Engine(stored)
    engine.fused = nn.Parameter(torch.empty(0), requires_grad=False)
    with pytest.raises(ModelError, match="layout that cannot be merged into"):
        find(engine, stored)


def test_a_parameter_that_nothing_was_stored_for_is_refused(stored: Stored) -> None:
    engine = Engine(stored)
    engine.extra = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ModelError, match="extra holds what is not in the checkpoint"):
        find(engine, stored)


@pytest.mark.parametrize("part", [lambda t: t[:2], lambda t: t * 1, lambda t: t.T])
def test_a_parameter_that_gets_a_tensor_in_another_shape_is_refused(
    stored: Stored, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(stored)

    def load(weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if name == "embed.weight":
                given = part(tensor)
                place = engine.table.data.flatten()[: given.numel()].view(given.shape)
                place.copy_(given)

    monkeypatch.setattr(engine, "load_weights", load)
    with pytest.raises(ModelError, match=r"table (is made of parts|does not hold)"):
        find(engine, stored)


def check(engine: Engine, stored: Stored) -> None:
    check_use(find(engine, stored), stored, TOKENS, engine.nats)  # type: ignore[arg-type]


def test_weights_that_are_used_are_as_they_were_afterwards(stored: Stored) -> None:
    engine = Engine(stored)
    before = {name: parameter.clone() for name, parameter in engine.named_parameters()}
    check(engine, stored)
    for name, parameter in engine.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_copy_of_a_shared_table_for_the_head_is_refused(stored: Stored) -> None:
    with pytest.raises(ModelError, match=r"the head does not follow changes of embed.weight"):
        check(Engine(stored, head=torch.clone), stored)


def test_a_tensor_that_is_not_used_is_refused(stored: Stored) -> None:
    engine = Engine(stored)
    copy = Engine(stored)
    copy.table = engine.table
    copy._head = engine.table
    with pytest.raises(ModelError, match=r"changing layers.#.gate.weight changes nothing"):
        check_use(find(engine, stored), stored, TOKENS, copy.nats)  # type: ignore[arg-type]
