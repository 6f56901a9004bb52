"""M2N2 as published breeds models: by niche and attraction, on a sphere, with a split point."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from evomerge.search.contract import Breeding, Result, StrategySettings
from evomerge.search.niche_models import M2N2Slerp
from evomerge.search.niches import ARCHIVE, WARM_UP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Proposal

SOLVED = [(1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0)]


def strategy(sources: int = 3) -> M2N2Slerp:
    return M2N2Slerp(StrategySettings(dimension=1, generation=8, seed=0, sources=sources))


def tell(told: M2N2Slerp, items: Sequence[tuple[float, ...]]) -> None:
    told.tell([Result(fitness=sum(each), scores=(sum(each) / 4,), items=each) for each in items])


def bred(proposals: Sequence[Proposal]) -> list[Breeding]:
    found = [each for each in proposals if isinstance(each, Breeding)]
    assert len(found) == len(proposals)
    return found


def test_sources_are_scored_first_and_then_merged_at_random() -> None:
    young = strategy()
    assert young.ask(3) == [0, 1, 2]
    for child in bred(young.ask(WARM_UP)):
        first, second = child.parents
        assert child.operator == "split_slerp"
        assert {first, second} < {0, 1, 2}
        assert first != second
        assert all(0 <= value < 1 for value in child.parameters.values())
        assert child.parameters.keys() == {"t", "split"}


def test_parents_are_drawn_by_shared_fitness_and_attraction() -> None:
    """The numbers of the paper's formulas on three members: (3, 2, 3) / 8, then (0, 1, 3) / 4."""
    old = strategy()
    old.ask(3)
    old.ask(WARM_UP)
    tell(old, SOLVED)
    old.tell([Result(fitness=None)] * WARM_UP)
    pairs = [child.parents for child in bred(old.ask(4000))]
    firsts = Counter(first for first, _ in pairs)
    mates = Counter(second for first, second in pairs if first == 0)
    assert [firsts[n] / 4000 for n in range(3)] == pytest.approx([3 / 8, 1 / 4, 3 / 8], abs=0.04)
    shares = [mates[n] / mates.total() for n in range(3)]
    assert shares == pytest.approx([0, 1 / 4, 3 / 4], abs=0.05)


def test_children_become_parents_under_their_numbers() -> None:
    old = strategy(sources=2)
    old.ask(2)
    old.ask(WARM_UP)
    tell(old, [(0.0,) * 4] * 2)
    tell(old, [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 1.0, 1.0), *[(0.0,) * 4] * (WARM_UP - 2)])
    # Two sources, told as numbers 2 and 3, come before the first child.
    assert {child.parents for child in bred(old.ask(40))} == {(4, 5), (5, 4)}


def test_the_archive_has_so_many_members() -> None:
    old = strategy()
    old.ask(3 + 40)
    tell(old, [(1.0, 0.0, 0.0, 0.0)] * 43)
    assert len(old._archive) == ARCHIVE
