"""`evomerge search` and `evomerge resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.cli.progress import SearchProgress
    from evomerge.run.search import Warn


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    help="Run folder; by default runs/NAME after the recipe's name.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."
)
@click.option(
    "--export",
    "out",
    type=click.Path(path_type=Path),
    help="Write the winner's merged model into this folder in the end.",
)
def search(
    recipe: Path, folder: Path | None, overrides: tuple[str, ...], out: Path | None
) -> None:
    """Search for the best merge that RECIPE, ours or mergekit-evolve's, describes.

    A run folder that holds this search already is continued where it stopped.
    """
    from evomerge.checkpoints import check_output_folder
    from evomerge.cli.console import log
    from evomerge.run.preparation.search_file import read_search
    from evomerge.run.search import start_or_continue

    run = folder or Path("runs") / recipe.stem
    if out is not None:
        check_output_folder(out)
    read = read_search(recipe, overrides)
    for note in read.notes:
        log().print(f"note: {note}", markup=False)
    work(
        run,
        lambda progress, warn: start_or_continue(read.recipe, read.root, run, progress, warn),
    )
    if out is not None:
        from evomerge.cli.export import write

        write(run, "winner", "checkpoint", out)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def resume(run: Path) -> None:
    """Continue the search in the folder RUN; finished work is never repeated."""
    from evomerge.run.search import resume as resume_search

    work(run, lambda progress, warn: resume_search(run, progress, warn))


def work(run: Path, action: Callable[[SearchProgress, Warn], None]) -> None:
    """Do something to a run, show how far it is, and in the end its leaderboard."""
    from evomerge.cli.console import log
    from evomerge.cli.progress import SearchProgress
    from evomerge.run.preparation.prepare import describe

    console = log()
    try:
        with SearchProgress() as progress:
            action(
                progress,
                lambda finding: console.print(
                    f"{finding.severity}: {describe(finding)}", markup=False
                ),
            )
    except KeyboardInterrupt:
        console.print(
            f"\nStopped; every score shown is saved. Continue with: evomerge resume {run}",
            markup=False,
        )
        raise
    _show_result(run)


def _show_result(run: Path) -> None:
    from evomerge.cli.console import out, print_end, print_leaderboard
    from evomerge.cli.leaderboard import read_leaderboard

    document = read_leaderboard(run)
    console = out()
    print_leaderboard(console, document, top=15)
    print_end(console, document)
    console.print()
    for comment, command in (
        ("all candidates", f"evomerge leaderboard {run}"),
        ("the winner in full", f"evomerge show {run} winner"),
        ("its recipe", f"evomerge export {run} --to recipe --out winner.yaml"),
        ("for mergekit", f"evomerge export {run} --to mergekit --out winner.mergekit.yaml"),
        ("the merged model", f"evomerge export {run} --to checkpoint --out winner"),
    ):
        console.print(f"  {command:<62} # {comment}", markup=False)
