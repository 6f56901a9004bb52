"""Candidates: from recipes to what the store keeps, from there to jobs, and from outcomes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.executors.contract import Job
from evomerge.genome.baselines import starting_candidates
from evomerge.recipe.digest import canonical_json, digest
from evomerge.recipe.lineage import as_document
from evomerge.recipe.merge import MergeRecipe
from evomerge.store.records import Candidate

if TYPE_CHECKING:
    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import Outcome, Split
    from evomerge.evaluation.scores.racing import Race
    from evomerge.genome.genome import Genome
    from evomerge.search.contract import Point


def starting(genome: Genome) -> list[Candidate]:
    """The candidates of generation zero."""
    starts = starting_candidates(genome.base, genome.sources, genome.dtype)
    parents = tuple(digest(start.recipe) for start in starts if start.kind == "source")
    return [
        Candidate(
            number=number,
            digest=digest(start.recipe),
            kind=start.kind,
            name=start.name,
            generation=0,
            genotype=None,
            recipe=recipe_json(start.recipe),
            parents=parents if start.kind == "baseline" else (),
        )
        for number, start in enumerate(starts)
    ]


def offspring(
    recipe: MergeRecipe,
    *,
    number: int,
    generation: int,
    parents: tuple[str, ...],
    point: Point | None = None,
    name: str | None = None,
) -> Candidate:
    """A candidate that was proposed, by a point of the genome or otherwise."""
    return Candidate(
        number=number,
        digest=digest(recipe),
        kind="offspring",
        name=name,
        generation=generation,
        genotype=point,
        recipe=recipe_json(recipe),
        parents=parents,
    )


def job_of(candidate: Candidate, split: Split, race: Race | None = None) -> Job:
    """The job of scoring a candidate on a split, on all of its items if there is no race."""
    recipe = MergeRecipe.model_validate_json(candidate.recipe)
    return Job(number=candidate.number, recipe=recipe, split=split, race=race)


def fitness_of(objective: Objective, outcome: Outcome) -> float | None:
    """The fitness of what became of a candidate; None if it failed."""
    return objective.fitness(outcome.scores) if isinstance(outcome, Evaluated) else None


def recipe_json(recipe: MergeRecipe) -> str:
    """A recipe as canonical JSON, defaults left out."""
    return canonical_json(as_document(recipe))
