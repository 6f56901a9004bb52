"""Models in memory: what strategies breed from the sources, made by the operators themselves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from operating import merge

from evomerge.search.contract import Breeding, Finished, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from evomerge.search.contract import Proposal, Strategy


class Weights:
    """The weights of individuals, in order of their numbers; task vectors are from zero.

    Args:
        sources: Those of the sources, shape `(M, *S)`.
        statistics: What calibration texts say of the sources, by the name of the input.
    """

    def __init__(self, sources: Tensor, statistics: Mapping[str, Tensor] | None = None) -> None:
        self._made, self._statistics = list(sources), statistics or {}
        # With what is bred for others only, or it would have to be made for each of its heirs.
        self._unnumbered: dict[int, tuple[Breeding, Tensor]] = {}

    def add(self, proposal: Proposal) -> Tensor:
        """The weights of the next individual."""
        self._made.append(self.of(proposal))
        return self._made[-1]

    def of(self, proposal: Proposal) -> Tensor:
        """The weights of an individual that exists, or of one that is bred from those."""
        if isinstance(proposal, int):
            return self._made[proposal]
        assert isinstance(proposal, Breeding)
        if id(proposal) not in self._unnumbered:
            self._unnumbered[id(proposal)] = (proposal, self._bred(proposal))
        return self._unnumbered[id(proposal)][1]

    def _bred(self, breeding: Breeding) -> Tensor:
        stack = torch.stack([self.of(parent) for parent in breeding.parents])
        measured = list(breeding.measured_as)
        inputs = {kind: found[measured] for kind, found in self._statistics.items() if measured}
        return merge(
            breeding.operator,
            stack,
            seed=breeding.seed,
            base=torch.zeros_like(stack[0]),
            **breeding.parameters,
            **inputs,
        )


def best_bred(
    strategy: Strategy,
    weights: Weights,
    fitness: Callable[[Tensor], float],
    *,
    proposals: int,
    at_a_time: int = 1,
) -> list[float]:
    """The best fitness so far after each proposal; shorter if the strategy has finished."""
    found: list[float] = []
    with suppress(Finished):
        while len(found) < proposals:
            new = strategy.ask(min(at_a_time, proposals - len(found)))
            assert new
            scores = [fitness(weights.add(each)) for each in new]
            strategy.tell([Result(fitness=score) for score in scores])
            for score in scores:
                found.append(max(score, found[-1] if found else score))
    return found
