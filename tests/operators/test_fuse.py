"""A loop gives the same bits whether it is compiled or not, and works where it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.operators import fuse
from evomerge.operators.fuse import FusedLoop, compiling
from evomerge.operators.randomness import draws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    Entries = Mapping[str, Sequence[Tensor]]

SIZE = 300_001
FLAGS = {"rate": torch.tensor(0.3), "draws": [draws(0, "tensor", "layer", "source")]}


def thin_and_round(entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
    """Random, rounded on the way to bfloat16, and stored in float32."""
    (delta,), (own,) = entries["delta"], arguments["draws"]
    kept = delta * (own.uniform(delta.shape) < arguments["rate"])
    out.copy_(kept.mul(1.7).to(torch.bfloat16))


def branch(entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
    """Looks at its numbers, which no compiler can follow."""
    (delta,) = entries["delta"]
    out.copy_(delta if arguments["rate"] > 0 else -delta)


def cheat(entries: Entries, arguments: Mapping[str, Any], out: Tensor) -> None:
    """Gives another result when it is compiled."""
    (delta,) = entries["delta"]
    out.copy_(delta + 1 if torch.compiler.is_compiling() else delta)


def run(loop: FusedLoop, times: int = 1) -> Tensor:
    """Run a loop over the same entries, several times, and return the last result."""
    delta = torch.arange(SIZE).sin()
    out = torch.empty(SIZE)
    for _ in range(times):
        loop({"delta": [delta]}, FLAGS, out)
    return out


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loops are compiled when they are used for the second time."""
    monkeypatch.setattr(fuse, "WORTH_COMPILING", -1.0)
    with compiling():
        yield


@pytest.mark.slow
def test_a_compiled_loop_gives_the_same_bits(at_once: None) -> None:
    compiled = FusedLoop(thin_and_round)
    assert torch.equal(run(compiled, 2), run(FusedLoop(thin_and_round, fusible=False)))
    assert compiled._compiled is not None


@pytest.mark.slow
@pytest.mark.parametrize("loop", [branch, cheat])
def test_a_loop_that_cannot_be_compiled_or_trusted_stays_as_it_is(
    loop: Callable[..., None], at_once: None
) -> None:
    wanted = run(FusedLoop(loop, fusible=False))
    tried = FusedLoop(loop)
    assert torch.equal(run(tried, 3), wanted)
    assert tried._compiled is None


@pytest.mark.parametrize("block", [1_000, SIZE - 1, SIZE, SIZE + 1])
def test_the_size_of_a_block_does_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(FusedLoop(thin_and_round, fusible=False))
    monkeypatch.setattr(fuse, "BLOCK", block)
    assert torch.equal(run(FusedLoop(thin_and_round, fusible=False)), whole)


def test_little_work_is_not_worth_compiling() -> None:
    loop = FusedLoop(thin_and_round)
    with compiling():
        run(loop, 3)
    assert loop._compiled is None


def test_nothing_is_compiled_for_those_who_merge_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "WORTH_COMPILING", -1.0)
    loop = FusedLoop(thin_and_round)
    run(loop, 3)
    assert loop._compiled is None
