"""`evomerge front`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evomerge.cli.view import view


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def front(run: Path, *, as_json: bool) -> None:
    """Show the candidates of RUN that no other is better than on every task.

    Works while the search runs, too. Scores are those on search items, which chose them.
    """
    from evomerge.cli.console import out, print_json, scores_table
    from evomerge.reporting.front import front as find

    document = view(run, find)
    if as_json:
        print_json(document)
        return
    console = out()
    console.print(scores_table(document["candidates"], document["tasks"]))
    console.print()
    for line in _lines(document):
        console.print(line, markup=False)


def _lines(document: dict[str, Any]) -> list[str]:
    shown, compared = len(document["candidates"]), document["compared"]
    lines = [f"{shown} of {compared} candidates are on the front."]
    if document["hypervolume"] is not None:
        lines.append(
            f"Its hypervolume above the base is {document['hypervolume']:.4f}; that of the "
            f"sources is {document['hypervolume_of_sources']:.4f}."
        )
    if document["stopped"]:
        lines.append(
            f"{document['stopped']} more were stopped in races, by the objective alone; with "
            "evaluation.racing: null all are compared."
        )
    return lines
