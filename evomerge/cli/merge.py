"""`evomerge merge`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--mergekit-compat",
    "compat",
    is_flag=True,
    help="Make the very bytes that mergekit 0.1.5 makes of its recipe, and follow it where it "
    "is unsafe.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of a mergekit recipe's random numbers, as its --random-seed.",
)
def merge(recipe: Path, out: Path, compat: bool, seed: int | None) -> None:  # noqa: FBT001
    """Merge the models of RECIPE, ours or mergekit's, into the folder OUT.

    Relative paths in our recipes start from the recipe's folder, in mergekit's from the current
    one, as they do there.
    """
    from evomerge.cli.console import log
    from evomerge.run.merge import merge_file

    for note in merge_file(recipe, out, compat=compat, seed=seed):
        log().print(f"warning: {note}", markup=False)
    log().print(f"merged model written to {out}", markup=False)
