"""`evomerge merge`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def merge(recipe: Path, out: Path) -> None:
    """Merge the models of RECIPE, ours or mergekit's, into the folder OUT.

    Relative paths in our recipes start from the recipe's folder, in mergekit's from the current
    one, as they do there.
    """
    from evomerge.cli.console import log
    from evomerge.run.export import merge_file

    for note in merge_file(recipe, out):
        log().print(f"warning: {note}", markup=False)
    log().print(f"merged model written to {out}", markup=False)
