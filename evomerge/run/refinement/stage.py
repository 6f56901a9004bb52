"""The last stage: the winner is refined by distillation, and what it became wins if no worse."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from evomerge.errors import EvaluationError, RunError
from evomerge.evaluation.scores.outcome import Failed
from evomerge.executors.contract import evaluate
from evomerge.executors.placed import run_here, run_on_ray
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.refinement.distil import Distilled, distil
from evomerge.refinement.distillation import Distillation
from evomerge.run.loop.candidates import fitness_of, job_of, recipe_json
from evomerge.run.preparation.students import (
    REFINED,
    check_refinement,
    merge_students,
    student_groups,
    teachers_of,
    training_folder,
)
from evomerge.run.preparation.workers import build_executor
from evomerge.run.refinement.verdict import CONTROL, conclude
from evomerge.store.records import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import Split, TaskScore
    from evomerge.executors.contract import Executor
    from evomerge.genome.baselines import Kind
    from evomerge.recipe.refine import Refinement
    from evomerge.run.loop.loop import Progress
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.run.preparation.workers import WorkerPlan
    from evomerge.store.database import RunStore
    from evomerge.store.records import Entry


def is_refined(store: RunStore, settings: Refinement) -> bool:
    """Whether the winner of a run has been refined by these settings."""
    done, verdict = store.fact("refinement"), store.fact("verdict")
    return bool(
        done
        and done["settings"] == settings.model_dump(mode="json")
        and done["student"] == _student(verdict)
    )


def refine_winner(
    search: PreparedSearch, store: RunStore, folder: Path, plan: WorkerPlan, progress: Progress
) -> None:
    """Refine the winner of a finished search, compare, and store the new verdict.

    A refined model is the winner if it scores no less than the student on the confirm items, or
    on the search items if there are none. Held-out items choose nothing here either.

    Args:
        search: The search; its recipe says how to refine.
        store: Its store, with a verdict.
        folder: Where students are trained and kept.
        plan: Workers, whose cores and device a training has to itself.
        progress: Told how far it is.

    Raises:
        RecipeError: The settings do not fit the student.
        RunError: The training failed, or a worker died; the winner is what it was.
        EvaluationError: A model that was trained cannot be scored; the same holds.
    """
    settings = search.recipe.refine
    if settings is None:
        return
    student = _entry(store, _student(store.fact("verdict")))
    before = MergeRecipe.model_validate_json(student.candidate.recipe)
    check_refinement(settings, before, teachers_of(search.recipe, settings))
    distilled = {}
    for name, work in distillations(search, settings, student, folder, plan).items():
        distilled[name] = _place(search, work, name, progress)
    candidates = _candidates(store, student, settings, distilled)
    with closing(build_executor(search, *plan)) as executor:
        _score(store, executor, search.objective, candidates, progress)
    courses = {digest(each.recipe): each.course for each in distilled.values()}
    found = conclude(store, search.objective, student.candidate, candidates)
    about = {"settings": settings.model_dump(mode="json"), "courses": courses}
    store.write_facts({"refinement": about | found})


def distillations(
    search: PreparedSearch, settings: Refinement, student: Entry, folder: Path, plan: WorkerPlan
) -> dict[str, Distillation]:
    """The students to train, by the names of their candidates."""
    recipe = search.recipe
    teachers = teachers_of(recipe, settings)
    groups = student_groups(settings, teachers)
    # Layers are fitted to those of sources: there is nothing to learn from texts alone.
    if settings.control and settings.train.what != "layerwise":
        groups[CONTROL] = ()
    return {
        name: Distillation(
            student=MergeRecipe.model_validate_json(student.candidate.recipe),
            teachers=group,
            settings=settings,
            folder=training_folder(folder, name, student.candidate.digest, settings),
            device=recipe.evaluation.device,
            dtype=recipe.evaluation.dtype,
            threads=plan.workers * plan.threads,
        )
        for name, group in groups.items()
    }


def _place(search: PreparedSearch, work: Distillation, name: str, progress: Progress) -> Distilled:
    executor = search.recipe.executor

    def report(what: str, done: int, total: int) -> None:
        progress.refined(f"{name}: {what}", done, total)

    train = partial(distil, work)
    if executor.kind == "inline":
        return run_here(train, report)
    return run_on_ray(
        train, report, cpus=work.threads, device=work.device, address=executor.address
    )


def _candidates(
    store: RunStore, student: Entry, settings: Refinement, distilled: dict[str, Distilled]
) -> list[Candidate]:
    """Put what was trained into the store; what is there already stays as it is."""
    recipes: list[tuple[str, Kind, MergeRecipe]] = [
        (name, "control" if name == CONTROL else "refined", each.recipe)
        for name, each in distilled.items()
    ]
    if settings.mode == "pairwise":
        own = [recipe for _, kind, recipe in recipes if kind == "refined"]
        merged = MergeRecipe.model_validate_json(student.candidate.recipe)
        merged = merge_students(merged, settings.operator, own)
        recipes.insert(0, (REFINED, "refined", merged))
    entries = store.entries()
    known = {entry.candidate.digest: entry.candidate for entry in entries}
    lowest = min(0, *(entry.candidate.number for entry in entries))
    # A run may be refined again, by other settings.
    names = Counter(re.sub(r" \d+$", "", entry.candidate.name or "") for entry in entries)
    candidates = [
        known.get(digest(recipe))
        or Candidate(
            number=lowest - 1 - index,
            digest=digest(recipe),
            kind=kind,
            name=f"{name} {names[name] + 1}" if names[name] else name,
            generation=student.candidate.generation,
            genotype=None,
            recipe=recipe_json(recipe),
            parents=(student.candidate.digest,),
        )
        for index, (name, kind, recipe) in enumerate(recipes)
    ]
    store.add_candidates([each for each in candidates if each.digest not in known])
    return candidates


def _score(
    store: RunStore,
    executor: Executor,
    objective: Objective,
    candidates: Sequence[Candidate],
    progress: Progress,
) -> None:
    splits: list[Split] = ["search", "confirm", "held_out"]
    if not any(items.confirm for items in store.items()):
        splits.remove("confirm")
    for split in splits:
        known = {entry.candidate.number: entry for entry in store.entries()}
        waiting = [each for each in candidates if not _scores(known[each.number], split)]
        jobs = [job_of(each, split) for each in waiting]
        what = {"search": "search items", "confirm": "confirm items"}.get(split, "held-out items")
        progress.compared(0, len(jobs), what)
        for done, (job, outcome) in enumerate(evaluate(executor, jobs), start=1):
            if isinstance(outcome, Failed):
                # A worker may die of anything; else the model is one that cannot be scored.
                kind = RunError if outcome.stage == "worker" else EvaluationError
                raise kind(f"refine: the model on {what}: {outcome.reason}")
            if split == "search":
                store.add_outcome(job.number, outcome, fitness_of(objective, outcome))
            else:
                store.add_scores(job.number, split, outcome.scores)
            progress.compared(done, len(jobs), what)


def _scores(entry: Entry, split: Split) -> tuple[TaskScore, ...]:
    if split == "search":
        return entry.searched
    return entry.confirmed if split == "confirm" else entry.held_out


def _student(verdict: dict[str, Any]) -> str:
    found: str = verdict["winner"]
    return found


def _entry(store: RunStore, wanted: str) -> Entry:
    return next(entry for entry in store.entries() if entry.candidate.digest == wanted)
