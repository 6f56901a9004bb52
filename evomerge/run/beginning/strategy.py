"""The strategy of a run: what it is told at the start, and which one `auto` is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from evomerge.checkpoints import Finding
from evomerge.run.loop.candidates import starting
from evomerge.search.choice import AUTO, Choice, choose
from evomerge.search.contract import StrategySettings
from evomerge.search.coordinate import COORDINATE, CoordinateSearch
from evomerge.search.strategies import build_strategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName
    from evomerge.run.beginning.measure import Gram
    from evomerge.run.loop.loop import LocalSearch
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.search.contract import Point, Strategy
    from evomerge.store.database import RunStore


def choice_of(search: PreparedSearch) -> Choice:
    """The strategy that a new run of a search has."""
    settings = search.recipe.search
    if settings.strategy != AUTO:
        return Choice(name=settings.strategy)
    return choose(_of_search(search))


def strategy_of(
    store: RunStore,
    search: PreparedSearch,
    gram: Gram | None = None,
    scales: tuple[float, ...] = (),
) -> Strategy:
    """Build the strategy of a run, as it was when the run began.

    Args:
        store: The run's store.
        search: The search.
        gram: Inner products of the sources' task vectors, if the strategy asks for them.
        scales: Factor of each gene's mutations; empty if nothing tells genes apart.

    Raises:
        VersionError: A package that it needs does not work as installed.
    """
    return build_strategy(_name(store, search), _settings(store, search, gram, scales))


def local_search_of(store: RunStore, search: PreparedSearch) -> LocalSearch | None:
    """What goes on around the best points when a run's strategy proposes nothing new.

    A coordinate search, unless that is the strategy already. Its first step is its own: a recipe's
    step is how the search as a whole begins.
    """
    settings = replace(_settings(store, search), step=None)

    def start(point: Point) -> Strategy:
        return CoordinateSearch(replace(settings, centre=point))

    return None if _name(store, search) == COORDINATE else start


def _name(store: RunStore, search: PreparedSearch) -> StrategyName:
    # Runs of versions that did not choose have the strategy of their recipe.
    chosen = store.fact("strategy")
    name: StrategyName = chosen["name"] if chosen else search.recipe.search.strategy
    return name


def _settings(
    store: RunStore,
    search: PreparedSearch,
    gram: Gram | None = None,
    scales: tuple[float, ...] = (),
) -> StrategySettings:
    warm, of_search = store.fact("warm_start"), _of_search(search)
    return replace(
        of_search,
        centre=tuple(warm["centre"]) if warm else None,
        candidates=store.fact("planned") or of_search.candidates,
        gram=gram,
        scales=scales,
    )


def _of_search(search: PreparedSearch) -> StrategySettings:
    """What a recipe and its models say, before a run knows more."""
    settings = search.recipe.search
    return StrategySettings(
        dimension=len(search.genome.genes),
        generation=settings.generation,
        seed=settings.seed,
        step=settings.step,
        genes=search.genome.genes,
        sources=len(search.genome.sources),
        candidates=settings.candidates,
        starting=len(starting(search.genome)),
        objectives=len(search.objective.weights),
    )


def note_of(choice: Choice) -> list[Finding]:
    """What the user should know of a choice."""
    if choice.reason is None:
        return []
    message = f"{choice.name}, because {choice.reason}"
    return [Finding(severity="note", where="search.strategy", message=message, remedy="")]
