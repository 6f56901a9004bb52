"""`evomerge leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evomerge.cli.view import view


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), help="Show only the best so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def leaderboard(run: Path, top: int | None, *, as_json: bool) -> None:
    """Show every candidate of RUN, best first."""
    from evomerge.cli.console import out, print_end, print_json, print_leaderboard

    document = read_leaderboard(run)
    if as_json:
        document["candidates"] = document["candidates"][:top]
        print_json(document)
        return
    console = out()
    print_leaderboard(console, document, top)
    print_end(console, document)


def read_leaderboard(run: Path) -> dict[str, Any]:
    """The leaderboard of a run folder, which another process may be writing."""
    from evomerge.reporting.leaderboard import leaderboard as build_leaderboard

    return view(run, lambda store: build_leaderboard(store, run))
