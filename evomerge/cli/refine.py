"""`evomerge refine`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="How to refine, as under refine: of a search recipe; that of RUN when absent.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."
)
@click.option(
    "--estimate", is_flag=True, help="Say what the teachers' cache would hold, and stop."
)
def refine(
    run: Path,
    recipe: Path | None,
    overrides: tuple[str, ...],
    estimate: bool,  # noqa: FBT001
) -> None:
    """Distil teachers into the winner of the finished search in the folder RUN.

    The refined model is the winner if it is no worse on the items that choose.
    """
    from evomerge.cli.search import work
    from evomerge.run.refine_file import estimate_run, refine_run

    if estimate:
        from evomerge.cli.console import out

        for line in estimate_run(run, recipe, overrides):
            out().print(line, markup=False)
        return
    work(run, lambda progress, warn: refine_run(run, recipe, overrides, progress, warn))
