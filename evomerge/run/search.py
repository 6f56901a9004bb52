"""Starts a search, continues one, and brings it to its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints import Finding
from evomerge.errors import (
    CompatibilityError,
    EvaluationError,
    ModelError,
    RecipeError,
    RunError,
)
from evomerge.executors.ray import one_ray
from evomerge.genome.steps import step_scales
from evomerge.recipe.search import Stop
from evomerge.run.beginning.creation import Beginning, begin, create, notes
from evomerge.run.beginning.measure import measured_genome, measured_gram
from evomerge.run.beginning.strategy import local_search_of, strategy_of
from evomerge.run.beginning.warm_start import WHERE
from evomerge.run.finish.finish import finish_search
from evomerge.run.folder import RunFolder, recipe_of
from evomerge.run.loop.loop import Progress, SearchLoop
from evomerge.run.preparation.prepare import Preparation, PreparedSearch, describe, prepare_search
from evomerge.run.preparation.workers import build_executor, plan_workers
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.preparation.workers import WorkerPlan

MAY_CHANGE = {"search.candidates", "search.stop", "executor", "refine"}
"""Parts of a recipe that may differ when a run is continued."""

Warn = Callable[[Finding], None]


def start_or_continue(
    recipe: SearchRecipe, root: Path, run: Path, progress: Progress, warn: Warn
) -> None:
    """Search in a run folder; if it holds this search already, continue it.

    Args:
        recipe: The search recipe.
        root: Folder that its relative paths start from.
        run: The run folder; created when absent.
        progress: Is told about every outcome.
        warn: Is told about every finding that is no error.

    Raises:
        EvomergeError: Anything that the user has to know; see `errors`.
    """
    folder = RunFolder(run)
    search, findings = prepare_search(recipe, root)
    beginning = None if folder.database.exists() else _begin(search)
    for finding in (*findings, *(beginning.findings if beginning else ())):
        warn(finding)
    # Asked once: it goes by the memory that is free, and Ray is given so many cores at its start.
    plan = plan_workers(search.recipe, search.parameters)
    with folder.locked(), one_ray():
        if beginning is None:
            opened = RunStore.open_for_writing(folder.database)
        else:
            opened = create(folder.database, search, beginning)
        with closing(opened) as store:
            if beginning is None:
                _refuse_other_recipe(store, search)
                for note in notes(store):
                    warn(note)
            _run(search, store, plan, progress)
            _refine(search, store, folder, plan, progress)


def resume(run: Path, progress: Progress, warn: Warn) -> None:
    """Continue the search in a run folder; a finished one is left as it is.

    Raises:
        EvomergeError: Anything that the user has to know; see `errors`.
    """
    folder = RunFolder(run)
    with closing(RunStore.open_for_reading(folder.database)) as store:
        recipe = recipe_of(store)
    start_or_continue(recipe, Path("/"), run, progress, warn)


def _begin(search: PreparedSearch) -> Beginning:
    result = Preparation()
    beginning = result.attempt(WHERE, lambda: begin(search))
    if beginning is None:
        raise RecipeError("\n".join(describe(error) for error in result.errors))
    return beginning


def _run(search: PreparedSearch, store: RunStore, plan: WorkerPlan, progress: Progress) -> None:
    settings = search.recipe.search
    asked = sum(entry.candidate.number >= 0 for entry in store.entries())
    # Runs of older versions know of fewer limits.
    same = Stop.model_validate(store.fact("stop") or {}) == settings.stop
    ended = asked >= settings.candidates or (store.fact("stopped") and same)
    if store.fact("state") == "finished" and ended:
        return
    _refuse_changed_models(store, search)
    gram = measured_gram(search.recipe, store, progress)
    genome = measured_genome(search.genome, search.recipe, store, progress)
    strategy = strategy_of(store, search, gram, step_scales(genome))
    # What may change and has; kept when what was known was proposed again, and not before: a
    # finished run that cannot be continued keeps its winner.
    changed = {"recipe": search.recipe.model_dump(mode="json"), "workers": plan.workers}
    with closing(build_executor(search, *plan)) as executor:
        if settings.stop.gpu_hours is not None and not executor.gpus:
            raise RecipeError(
                "search.stop.gpu_hours: the workers have no GPU here, so it would never end the "
                "search; give hours or wall_hours"
            )
        loop = SearchLoop(
            genome=genome,
            strategy=strategy,
            objective=search.objective,
            executor=executor,
            store=store,
            progress=progress,
            racing=search.recipe.evaluation.racing,
        )
        reason = loop.run(
            settings.candidates,
            settings.generation,
            steady=settings.steady,
            stop=settings.stop,
            local=local_search_of(store, search),
            go_on=lambda: store.write_facts(changed | {"state": "running"}),
        )
        store.write_facts(changed | {"stopped": reason, "stop": settings.stop.model_dump()})
        finish_search(
            store, executor, search.objective, progress, genome, soup=settings.elite_soup
        )


def _refine(
    search: PreparedSearch,
    store: RunStore,
    folder: RunFolder,
    plan: WorkerPlan,
    progress: Progress,
) -> None:
    if search.recipe.refine is None:
        return
    # Imported here because it brings along what trains models.
    from evomerge.run.refinement.stage import is_refined, refine_winner

    if is_refined(store, search.recipe.refine):
        return
    before = store.fact("recipe")
    store.write_facts({"recipe": search.recipe.model_dump(mode="json"), "refining": True})
    try:
        refine_winner(search, store, folder.refined.resolve(), plan, progress)
    except (RecipeError, ModelError, CompatibilityError, EvaluationError):
        # Settings that cannot work are none that the run should be continued with.
        store.write_facts({"recipe": before, "refining": False})
        raise
    store.write_facts({"refining": False})


def _refuse_other_recipe(store: RunStore, search: PreparedSearch) -> None:
    before = _flatten(recipe_of(store).model_dump(mode="json"))
    now = _flatten(search.recipe.model_dump(mode="json"))
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and not any(key == may or key.startswith(f"{may}.") for may in MAY_CHANGE)
    )
    if changed:
        raise RecipeError(
            f"this run folder holds another search; it differs in {', '.join(changed)}. "
            "Give another --run, or the recipe that the run was started with"
        )
    drawn = [entry.search for entry in store.items()]
    if drawn != [entry.search for entry in search.items]:
        raise RunError("the tasks' documents have changed since this run was started")


def _refuse_changed_models(store: RunStore, search: PreparedSearch) -> None:
    before = store.fact("identities")
    changed = [ref for ref, identity in search.identities.items() if before.get(ref) != identity]
    if changed:
        raise RunError(
            f"{changed[0]}: has changed on disk since this run was started; restore it, or start "
            "another run"
        )


def _flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(document, dict):
        return {prefix: document}
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
