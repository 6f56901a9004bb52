"""`evomerge merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from evomerge.merging.vocabulary.changes import VocabularyChange


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
    from evomerge.run.merges.merge import merge_file

    merged = merge_file(recipe, out, compat=compat, seed=seed)
    for note in merged.notes:
        log().print(f"warning: {note}", markup=False)
    if merged.vocabulary:
        log().print(_vocabulary_table(merged.vocabulary))
    log().print(f"merged model written to {out}", markup=False)


def _vocabulary_table(changes: Sequence[VocabularyChange]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("vocabulary")
    table.add_column("count", justify="right")
    table.add_column("examples")
    for change in changes:
        table.add_row(change.what, str(change.count), escape(" ".join(change.examples)))
    return table
