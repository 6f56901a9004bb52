"""`evomerge show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.reporting.learning_curve import Point


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("candidate", default="winner")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(run: Path, candidate: str, *, as_json: bool) -> None:
    """Show one CANDIDATE of RUN: its scores, where it comes from and its recipe.

    CANDIDATE is an id of the leaderboard or its beginning, a name in quotes, or `winner`.
    """
    from evomerge.cli.console import out, print_json
    from evomerge.cli.leaderboard import read_leaderboard
    from evomerge.recipe.dump import to_yaml
    from evomerge.reporting.leaderboard import find_row

    document = read_leaderboard(run)
    row = find_row(document, candidate)
    course = ((document["refinement"] or {}).get("courses", {})).get(row["candidate"])
    if as_json:
        print_json(row)
        return
    console = out()
    for line in (*_describe(row), *_training(course)):
        console.print(line, markup=False)
    console.print()
    console.print(to_yaml(row["recipe"]), markup=False, end="")


def _training(course: dict[str, Any] | None) -> list[str]:
    """How a refined model was trained, if it is one."""
    if not course or "steps" not in course:
        return []
    lines = [
        (
            f"training    {course['steps']} steps, {course['tokens']:,} tokens, of which "
            f"{course['supervised']:,} were to be predicted, in {course['seconds']:.0f} s"
        )
    ]
    from evomerge.cli.console import doubt_in_words
    from evomerge.reporting.learning_curve import learning_curve

    lines += _losses(learning_curve(course))
    lines += [f"in doubt    {line}" for line in doubt_in_words(course)]
    lines += [f"teacher     {name}: {note}" for name, note in course.get("alignment", {}).items()]
    return lines


def _losses(points: Sequence[Point]) -> list[str]:
    """Two curves, one above the other, and their numbers."""
    if not points:
        return []
    from evomerge.reporting.learning_curve import best, sparkline, table

    learned = sparkline([point.training for point in points])
    watched = sparkline([point.validation for point in points])
    rows = [("step", "texts", "set aside"), *table(points)]
    return [
        f"texts       loss {learned}",
        f"set aside   loss {watched}  least at step {best(points).step}, whose weights were kept",
        *(f"{a:>16}  {b:>9}  {c:>9}" for a, b, c in rows),
    ]


def _layers(stack: Sequence[dict[str, Any]]) -> str:
    """The path of a candidate through layers: how many it has, and of which models, bottom up."""
    steps = [(label, *ends) for slab in stack for label, ends in slab["layers"].items()]
    height = sum(stop - start for _, start, stop in steps)
    return f"{height}: " + ", ".join(
        f"{label} {start}" + (f"-{stop - 1}" if stop - start > 1 else "")
        for label, start, stop in steps
    )


def _describe(row: dict[str, Any]) -> list[str]:
    name = f" ({row['name']})" if row["name"] else ""
    # What a refinement became was not asked for by the search, and has no number in it.
    number = f", number {row['number']}" if row["number"] >= 0 else ""
    lines = [f"candidate   {row['candidate']}, {row['kind']}{name}{number}"]
    from evomerge.cli.console import choices_in_words

    status = row["status"]
    if status == "stopped":
        status += f" after {row['share']:.0%} of the items, could not become the best"
    lines.append(f"status      {status}" + (f", rank {row['rank']}" if row["rank"] else ""))
    if row["failure"]:
        lines.append(f"failure     {row['failure']}")
    for label, total, scores in (
        ("search", row["search_score"], row["scores"]),
        ("held-out", row["held_out_score"], row["held_out_scores"]),
    ):
        if total is not None:
            parts = ", ".join(f"{task} {score:.3f}" for task, score in scores.items())
            lines.append(f"{label:<11} {total:.3f} ({parts})")
    if "stack" in row["recipe"]:
        lines.append(f"layers      {_layers(row['recipe']['stack'])}")
    if row["choices"]:
        lines.append(f"choices     {choices_in_words(row['choices'])}")
    if row["parents"]:
        lines.append(f"parents     {', '.join(row['parents'])}")
    return lines
