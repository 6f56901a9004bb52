"""What a new run begins with: facts that never change, and scores that are known already."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import evomerge
from evomerge.live_model import choose_device
from evomerge.run.beginning.strategy import choice_of, note_of
from evomerge.run.beginning.warm_start import WarmStart, read_warm_start, start_note
from evomerge.run.loop.candidates import fitness_of, starting
from evomerge.run.preparation.workers import plan_workers
from evomerge.search.choice import Choice
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evomerge.checkpoints import Finding
    from evomerge.evaluation.scores.outcome import Evaluated
    from evomerge.run.preparation.prepare import PreparedSearch

RECORDED = (
    "torch",
    "transformers",
    "lm_eval",
    "nevergrad",
    "cma",
    "numpy",
    "scipy",
    "safetensors",
    "ray",
)
"""Packages whose versions a run remembers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What a new run begins with.

    Attributes:
        choice: Its strategy.
        scored_by: What its scores follow from, besides recipes and models.
        warm_start: What it takes from an earlier run; None if it takes nothing.
    """

    choice: Choice
    scored_by: dict[str, Any]
    warm_start: WarmStart | None

    @property
    def findings(self) -> list[Finding]:
        """What the user should know of it."""
        warm = self.warm_start.findings if self.warm_start else []
        return [*note_of(self.choice), *warm]


def begin(search: PreparedSearch) -> Beginning:
    """Choose a strategy, and read the earlier run that the search starts from, if it does.

    Raises:
        RunError: The earlier run cannot be read, or has nothing to start from.
        RecipeError: It does not fit the search.
    """
    choice, scored_by = choice_of(search), _scored_by(search)
    warm_start = read_warm_start(search, choice.name, scored_by)
    return Beginning(choice=choice, scored_by=scored_by, warm_start=warm_start)


def create(database: Path, search: PreparedSearch, beginning: Beginning) -> RunStore:
    """Create the store of a run.

    Raises:
        RunError: It cannot be written.
    """
    store = RunStore.create(database)
    warm = beginning.warm_start
    store.write_facts(
        {
            "recipe": search.recipe.model_dump(mode="json"),
            "identities": search.identities,
            "weights": dict(search.objective.weights),
            "higher_is_better": dict(search.objective.higher_is_better),
            "objective": search.objective.name,
            "genes": search.genome.labels(),
            # What the strategy is told, also when more are asked for later.
            "planned": search.recipe.search.candidates,
            "strategy": asdict(beginning.choice),
            "warm_start": warm.facts if warm else None,
            "scored_by": beginning.scored_by,
            "versions": beginning.scored_by["versions"],
            # Documents that decided something, here or in a run that this one starts from.
            "choosing": sorted({*search.contents.choosing, *(warm.choosing if warm else ())}),
            "held_out": list(search.contents.held_out),
            "state": "running",
        },
        search.items,
    )
    if warm and warm.outcomes:
        _add_known(store, search, warm.outcomes)
    return store


def notes(store: RunStore) -> list[Finding]:
    """What the user was told when the run began."""
    strategy, warm = store.fact("strategy"), store.fact("warm_start")
    if strategy is None:  # of a version that could not choose
        return []
    start = [start_note(warm["run"], strategy["name"])] if warm else []
    return [*note_of(Choice(**strategy)), *start]


def _add_known(store: RunStore, search: PreparedSearch, outcomes: Mapping[str, Evaluated]) -> None:
    """Store the outcomes that an earlier run had, as if they had been found by this one."""
    candidates = starting(search.genome)
    store.add_candidates(candidates)
    for candidate in candidates:
        outcome = outcomes.get(candidate.digest)
        if outcome:
            store.add_outcome(candidate.number, outcome, fitness_of(search.objective, outcome))


def _scored_by(search: PreparedSearch) -> dict[str, Any]:
    evaluation, executor = search.recipe.evaluation, search.recipe.executor
    _, threads = plan_workers(search.recipe, search.parameters)
    # What a cluster's devices are is known only there.
    here = executor.address is None
    return {
        "tasks": search.contents.tasks,
        "tokenizer": search.tokenizer,
        "backend": evaluation.backend,
        "device": str(choose_device(evaluation.device)) if here else evaluation.device,
        "dtype": evaluation.dtype,
        "batch_tokens": evaluation.batch_tokens,
        "threads": threads,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"evomerge": evomerge.__version__}
    for package in RECORDED:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
