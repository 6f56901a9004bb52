"""The leaderboard: every candidate of a run, ranked, and the verdict on the winner."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from evomerge.errors import RunError
from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import Evaluated, Failed
from evomerge.genome.genes import OPERATOR, POST, PRESENCE
from evomerge.recipe.merge import MergeRecipe
from evomerge.reporting.forecast import forecast
from evomerge.store.records import scores_of_sources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.store.database import RunStore
    from evomerge.store.records import Candidate, Entry

VERSION = 1
"""Version of the document that `leaderboard` gives. Fields may be added, never changed."""

ID_LENGTH = 12
"""Digits of a digest that stand for a candidate in tables and on the command line."""


def leaderboard(store: RunStore, run: Path) -> dict[str, Any]:
    """The leaderboard of a run as a JSON document.

    Candidates with the same recipe are one row. Scores are those on search items, estimated from
    a `share` of them for candidates that were stopped; the few candidates that were also scored on
    held-out items have `held_out_score`.
    """
    objective, entries = read_objective(store), store.entries()
    finished, workers = store.fact("state") == "finished", store.fact("workers")
    verdict = _verdict(store) if finished else None
    genes = store.fact("genes") or []
    rows = [_row(entry, objective, genes) for entry in _distinct(entries)]
    ranked = sorted(
        rows, key=lambda row: (row["search_score"] is None, -(row["search_score"] or 0.0))
    )
    for rank, row in enumerate(ranked, start=1):
        row["rank"] = rank if row["search_score"] is not None else None
    if verdict:
        ids = {key: short_id(verdict[key]) for key in ("winner", "best_source")}
        comparisons = [
            each | {"rival": short_id(each["rival"])} for each in verdict.get("comparisons", ())
        ]
        verdict = verdict | ids | {"comparisons": comparisons}
    return {
        "version": VERSION,
        "run": run.resolve().name,
        "state": store.fact("state"),
        "strategy": store.fact("strategy"),
        "stopped": store.fact("stopped"),
        "candidates": ranked,
        "verdict": verdict,
        "refinement": _refinement(store),
        "refining": bool(store.fact("refining")),
        "forecast": forecast(entries, objective, workers) if finished and workers else None,
    }


def _verdict(store: RunStore) -> dict[str, Any] | None:
    """What was found out in the end: after a refinement, if there was one of this winner."""
    verdict: dict[str, Any] | None = store.fact("verdict")
    refinement = store.fact("refinement")
    if verdict and refinement and refinement["student"] == verdict["winner"]:
        found: dict[str, Any] = refinement["verdict"]
        return found
    return verdict


def _refinement(store: RunStore) -> dict[str, Any] | None:
    """How students were trained, by their ids, and how the refined one compares."""
    found = store.fact("refinement")
    if not found:
        return None
    courses = {short_id(digest): course for digest, course in found["courses"].items()}
    return {"comparisons": found["comparisons"], "courses": courses}


def read_objective(store: RunStore) -> Objective:
    """The objective of a run."""
    objective = Objective(
        weights=store.fact("weights"),
        higher_is_better=store.fact("higher_is_better"),
        name=store.fact("objective") or "mean",
    )
    # The sources may not all be known yet, or measure nothing: then scores are shown as they are.
    with suppress(RunError):
        return objective.measured_by(scores_of_sources(store.entries()))
    return objective


def short_id(digest: str) -> str:
    """The id of a candidate in tables."""
    return digest[:ID_LENGTH]


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.candidate.digest, entry)
    return list(first.values())


def _row(entry: Entry, objective: Objective, genes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    candidate, outcome = entry.candidate, entry.outcome
    scores = entry.confirmed or (outcome.scores if isinstance(outcome, Evaluated) else ())
    failure = f"{outcome.stage}: {outcome.reason}" if isinstance(outcome, Failed) else None
    status = "pending" if outcome is None else "failed" if failure else "evaluated"
    if isinstance(outcome, Evaluated) and not entry.whole:
        status = "stopped"
    return {
        "candidate": short_id(candidate.digest),
        "number": candidate.number,
        "rank": None,
        "status": status,
        "share": 1.0 if entry.whole else getattr(outcome, "share", None),
        "kind": candidate.kind,
        "name": candidate.name,
        "generation": candidate.generation,
        "recipe": json.loads(candidate.recipe),
        "choices": _choices(candidate, genes) if candidate.genotype else {},
        "search_score": entry.search_score(objective),
        "scores": {score.task: score.score for score in scores},
        "held_out_score": objective.fitness(entry.held_out) if entry.held_out else None,
        "held_out_scores": {score.task: score.score for score in entry.held_out},
        "truncated": {s.task: s.truncated for s in scores if s.truncated is not None},
        "failure": failure,
        "parents": [short_id(parent) for parent in candidate.parents],
    }


def _choices(candidate: Candidate, genes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a candidate's genes chose: its operator, the sources it does without, what follows."""
    chosen = [gene for gene in genes if "choices" in gene]
    found: dict[str, Any] = {}
    if not chosen:
        return found
    recipe = MergeRecipe.model_validate_json(candidate.recipe)
    if any(gene["parameter"] == POST for gene in chosen):
        inner = recipe.sources[0].recipe
        found["post"] = recipe.operator if inner else None
        recipe = inner or recipe
    if any(gene["parameter"] == OPERATOR for gene in chosen):
        found["operator"] = recipe.operator
    optional = [gene["source"] for gene in chosen if gene["parameter"] == PRESENCE]
    if optional:
        merged = {source.label for source in recipe.sources}
        found["dropped"] = [name for name in optional if name not in merged]
    return found


def find_row(document: dict[str, Any], wanted: str) -> dict[str, Any]:
    """The row of a leaderboard that a user means.

    Args:
        document: What `leaderboard` gave.
        wanted: A candidate's digest or the beginning of it, its name, or `winner`.

    Raises:
        RunError: No row, or more than one, is meant.
    """
    rows: list[dict[str, Any]] = document["candidates"]
    if wanted == "winner":
        if document["verdict"] is None:
            raise RunError(
                "the search has not finished, so there is no winner yet; name a candidate"
            )
        wanted = document["verdict"]["winner"]
    named = [row for row in rows if row["name"] == wanted]
    found = named or [row for row in rows if row["candidate"].startswith(short_id(wanted))]
    if len(found) != 1:
        ids = ", ".join(row["candidate"] for row in found)
        known = f"{len(found)} candidates of that name or id: {ids}; name one of them"
        none = "no candidate of that name or id; see the leaderboard"
        raise RunError(f"candidate {wanted!r}: {known if found else none}")
    return found[0]
