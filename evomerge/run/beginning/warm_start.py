"""Starts a search where an earlier run ended: its best point, and the scores that hold here."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from evomerge.checkpoints import Finding
from evomerge.errors import RecipeError, RunError
from evomerge.evaluation.scores.outcome import Evaluated, Timing
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.reporting.leaderboard import read_objective
from evomerge.run.beginning.transfer import models_by_content, transferred
from evomerge.run.finish.finalists import best_points
from evomerge.run.folder import RunFolder, recipe_of
from evomerge.run.loop.candidates import starting
from evomerge.search.strategies import BREEDERS, WITHOUT_CENTRE
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.search.contract import Point

WHERE = "search.warm_start"

UNTIMED = Timing(merge_s=0.0, forward_s=0.0, total_s=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """What a run takes from an earlier one.

    Attributes:
        run: Folder of the earlier run.
        centre: Mean of its best offspring, as a point of the new search. The first step is that
            of any search: on planted landscapes half of it found less (benchmarks/LOG.md).
        outcomes: What is known of the starting candidates, by the digests of their recipes here.
        choosing: Documents that decided something in the earlier run, or in one that it began
            from.
        findings: What the user should know.
    """

    run: str
    centre: Point
    outcomes: Mapping[str, Evaluated]
    choosing: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What the new run remembers, so that the earlier one may be deleted."""
        return {"run": self.run, "centre": self.centre}


def read_warm_start(
    search: PreparedSearch, strategy: str, scored_by: Mapping[str, Any]
) -> WarmStart | None:
    """Read the run that a search starts from; None if it starts from none.

    Args:
        search: The new search.
        strategy: Its strategy.
        scored_by: What its scores follow from, besides recipes and models.

    Raises:
        RunError: The run cannot be read, or has nothing to start from.
        RecipeError: It is about other models or genes, or its items decided what this search
            would be judged by.
    """
    run = search.recipe.search.warm_start
    if run is None:
        return None
    with closing(RunStore.open_for_reading(RunFolder(Path(run)).database)) as store:
        earlier = _recipe(store, run)
        models = models_by_content(earlier, store.fact("identities"), search, run)
        choosing = _choosing(store, search, run)
        best = best_points(store.entries(), read_objective(store))
        if not best:
            if recipe_of(store).search.strategy in BREEDERS:
                raise RunError(f"{run} bred models from models, so it has no point to start from")
            raise RunError(f"{run} has no offspring yet that stands for a point")
        genes = store.fact("genes")
        points = [
            transferred(
                entry.candidate.genotype or (), genes, earlier, models, search=search, run=run
            )
            for entry in best
        ]
        differs = _differences(store.fact("scored_by"), scored_by)
        outcomes = {} if differs else _outcomes(store, models)
        overlap = {*store.fact("held_out")} & {*search.contents.choosing} - {*choosing}
    return WarmStart(
        run=run,
        centre=search.genome.mean(points),
        outcomes=outcomes,
        choosing=choosing,
        findings=(
            start_note(run, strategy),
            _about("note", _scores_used(differs, search, outcomes)),
            *_warnings(len(overlap), run),
        ),
    )


def start_note(run: str, strategy: str) -> Finding:
    """What the user should know of a start from an earlier run."""
    if strategy in WITHOUT_CENTRE:
        return _about("note", f"{strategy} does not start from a point, so {run} guides nothing")
    return _about("note", f"proposals start around the elite mean of {run}")


def _recipe(store: RunStore, run: str) -> SearchRecipe:
    if store.fact("recipe") is None:
        raise RunError(f"{run} was stopped before it began")
    try:
        return recipe_of(store)
    except ValidationError as error:
        raise RunError(
            f"{run} was made by another version of evomerge, whose recipe cannot be read"
        ) from error


def _choosing(store: RunStore, search: PreparedSearch, run: str) -> tuple[str, ...]:
    """The documents that decided something in the earlier run; none is held out in the search."""
    choosing = store.fact("choosing")
    if choosing is None:
        raise RunError(
            f"{run} was made by an older evomerge, which did not remember its documents"
        )
    contents = search.contents
    # What one task searches and another holds out was so before, and is up to the user.
    spoilt = len({*choosing} & {*contents.held_out} - {*contents.choosing})
    if spoilt:
        # The point was chosen by its scores on them: they would flatter the winner.
        raise RecipeError(
            f"{spoilt} held-out items of this search decided the course of {run}, so they cannot "
            "judge its winner; give the same evaluation.items as there, seed included"
        )
    return tuple(choosing)


def _differences(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """In which of the things that scores follow from two runs differ."""
    return [name for name, value in now.items() if (before or {}).get(name) != value]


def _outcomes(store: RunStore, models: Mapping[str, str]) -> dict[str, Evaluated]:
    """What was scored on all search items, by the digests that the recipes have in the search."""
    return {
        digest(_with_models(recipe, models)): replace(entry.outcome, timing=UNTIMED)
        for entry in store.entries()
        if entry.searched
        and isinstance(entry.outcome, Evaluated)
        # Only what every search starts from can come again.
        and entry.candidate.generation == 0
        for recipe in [MergeRecipe.model_validate_json(entry.candidate.recipe)]
    }


def _with_models(recipe: MergeRecipe, models: Mapping[str, str]) -> MergeRecipe:
    sources = tuple(
        source.model_copy(update={"model": models[str(source.model)]}) for source in recipe.sources
    )
    return recipe.model_copy(update={"base": models[recipe.base], "sources": sources})


def _scores_used(
    differs: Sequence[str], search: PreparedSearch, outcomes: Mapping[str, Evaluated]
) -> str:
    if differs:
        return f"base, sources and baselines are scored again: {', '.join(differs)} changed"
    starts = [candidate.digest for candidate in starting(search.genome)]
    kept = sum(each in outcomes for each in starts)
    return f"{kept} of {len(starts)} starting candidates keep the scores that they have there"


def _warnings(overlap: int, run: str) -> list[Finding]:
    if not overlap:
        return []
    # Nothing was chosen by them there, so this search's own verdict is sound.
    message = (
        f"{overlap} search items were held out in {run}: its winner and this one's cannot be "
        "compared on them"
    )
    return [_about("warning", message)]


def _about(severity: Literal["warning", "note"], message: str) -> Finding:
    return Finding(severity=severity, where=WHERE, message=message, remedy="")
