"""The strategy of a run: what it is told at the start, and which one `auto` is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.checkpoints import Finding
from evomerge.run.loop.candidates import starting
from evomerge.search.choice import AUTO, Choice, choose
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy

if TYPE_CHECKING:
    from evomerge.run.beginning.measure import Gram
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.search.contract import Strategy
    from evomerge.store.database import RunStore


def choice_of(search: PreparedSearch) -> Choice:
    """The strategy that a new run of a search has."""
    settings = search.recipe.search
    if settings.strategy != AUTO:
        return Choice(name=settings.strategy)
    return choose(
        StrategySettings(
            dimension=len(search.genome.genes),
            generation=settings.generation,
            seed=settings.seed,
            candidates=settings.candidates,
            objectives=len(search.objective.weights),
        )
    )


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
    settings, chosen = search.recipe.search, store.fact("strategy")
    warm = store.fact("warm_start")
    return build_strategy(
        # Runs of versions that did not choose have the strategy of their recipe.
        chosen["name"] if chosen else settings.strategy,
        StrategySettings(
            dimension=len(search.genome.genes),
            generation=settings.generation,
            seed=settings.seed,
            step=settings.step,
            genes=search.genome.genes,
            sources=len(search.genome.sources),
            centre=tuple(warm["centre"]) if warm else None,
            candidates=store.fact("planned") or settings.candidates,
            starting=len(starting(search.genome)),
            objectives=len(search.objective.weights),
            gram=gram,
            scales=scales,
        ),
    )


def note_of(choice: Choice) -> list[Finding]:
    """What the user should know of a choice."""
    if choice.reason is None:
        return []
    message = f"{choice.name}, because {choice.reason}"
    return [Finding(severity="note", where="search.strategy", message=message, remedy="")]
