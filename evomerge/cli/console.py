"""What commands share in talking to the user: streams, JSON, tables."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPE_WIDTH = 200
FEW = 10
"""Fewer texts than these tell little of which step of a training was the best."""


class _Console(Console):
    """Leaves a closed pipe to the entry point, which knows the exit code for it."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def out() -> Console:
    """The console for results; wide when nobody sees its edge."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def log() -> Console:
    """The console for everything that is not a result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def doubt_in_words(course: dict[str, Any]) -> list[str]:
    """What there is to say where few texts chose the best step of a training: a line, or none."""
    watched = course.get("watched", FEW)
    if watched >= FEW or not course.get("validation_losses"):
        return []
    chosen = f"the best step was chosen by {watched} texts only"
    return [f"{chosen}: give more, or raise data.validation"]


def print_json(document: Any) -> None:
    """Print one JSON document and nothing else."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    sys.stdout.flush()


def print_leaderboard(console: Console, document: dict[str, Any], top: int | None) -> None:
    """Print the leaderboard, best first, and above it what was chosen for the run."""
    strategy = document["strategy"]
    if strategy and strategy["reason"]:
        line = f"strategy: {strategy['name']}, because {strategy['reason']}"
        console.print(line, markup=False)
    console.print(leaderboard_table(document, top))


def print_end(console: Console, document: dict[str, Any]) -> None:
    """Print how a search ended, if it has, and what another hour would bring."""
    if not document["verdict"]:
        return
    console.print()
    if document["stopped"]:
        console.print(f"The search ended early: {document['stopped']}.", markup=False)
    console.print(document["verdict"]["text"], style="bold", markup=False)
    if document["forecast"]:
        console.print(document["forecast"]["text"], markup=False)
    if document["refining"]:
        text = "A refinement of the winner has begun and not ended: evomerge resume goes on."
        console.print(text, markup=False)


def leaderboard_table(document: dict[str, Any], top: int | None) -> Table:
    """The leaderboard as a table, best first."""
    rows = document["candidates"]
    tasks = list(next((row["scores"] for row in rows if row["scores"]), {}))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    for heading in ("candidate", "kind", "name"):
        table.add_column(heading, no_wrap=heading != "name")
    # Only where the search chooses anything but numbers.
    chosen = any(row["choices"] for row in rows)
    if chosen:
        table.add_column("choices")
    for heading in ("search", *_without_common_prefix(tasks), "held-out"):
        table.add_column(escape(heading), justify="right", no_wrap=True)
    verdict = document["verdict"] or {}
    for row in rows[:top]:
        is_winner = row["candidate"] == verdict.get("winner")
        style = "bold green" if is_winner else None
        style = {"failed": "red", "stopped": "dim"}.get(row["status"], style)
        table.add_row(
            str(row["rank"] or "-"),
            row["candidate"],
            # Also where no colour is seen, or another has the highest score.
            row["kind"] + ", winner" * is_winner,
            escape(row["name"] or f"gen {row['generation']}"),
            *([escape(choices_in_words(row["choices"]))] if chosen else []),
            _search_score(row),
            *(_number(row["scores"].get(task)) for task in tasks),
            _number(row["held_out_score"]),
            style=style,
        )
    return table


def scores_table(rows: list[dict[str, Any]], tasks: list[str]) -> Table:
    """Candidates and their scores on each task, in the order given."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("candidate", "kind", "name"):
        table.add_column(heading, no_wrap=heading != "name")
    for heading in ("search", *_without_common_prefix(tasks)):
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["candidate"],
            row["kind"],
            escape(row["name"] or f"gen {row['generation']}"),
            _number(row["search_score"]),
            *(_number(row["scores"][task]) for task in tasks),
        )
    return table


def choices_in_words(choices: dict[str, Any]) -> str:
    """What a candidate's genes chose, such as `ties, without french`."""
    words = [choices["operator"]] if "operator" in choices else []
    if choices.get("dropped"):
        words.append(f"without {' and '.join(choices['dropped'])}")
    elif "dropped" in choices and not words:
        words.append("all sources")
    if choices.get("post"):
        words.append(f"then {choices['post']}")
    return ", ".join(words)


def _without_common_prefix(tasks: list[str]) -> list[str]:
    """Task names that differ early, so that narrow columns can be told apart."""
    words = [task.split("_") for task in tasks]
    while len(words) > 1 and min(map(len, words)) > 1 and len({each[0] for each in words}) == 1:
        words = [each[1:] for each in words]
    return ["_".join(each) for each in words]


def _search_score(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return "failed"
    # Estimated from the first items, because the candidate was stopped.
    return ("~" if row["status"] == "stopped" else "") + _number(row["search_score"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
