"""`evomerge export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("candidate", default="winner")
@click.option(
    "--to",
    "form",
    type=click.Choice(["recipe", "mergekit", "checkpoint"]),
    default="recipe",
    show_default=True,
    help="What to write.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write it.")
def export(run: Path, candidate: str, form: str, out: Path) -> None:
    """Write a CANDIDATE of RUN as a recipe, as mergekit YAML or as a merged model."""
    from evomerge.cli.console import log
    from evomerge.cli.leaderboard import read_leaderboard
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.reporting.leaderboard import find_row
    from evomerge.run.export import export_merged, export_mergekit, export_recipe

    row = find_row(read_leaderboard(run), candidate)
    recipe = MergeRecipe.model_validate(row["recipe"])
    library = SourceLibrary(Path("/"))
    notes: tuple[str, ...] = ()
    if form == "recipe":
        export_recipe(recipe, out)
    elif form == "mergekit":
        notes = export_mergekit(recipe, library, out)
    else:
        export_merged(recipe, library, out)
    for note in notes:
        log().print(f"note: {note}", markup=False)
    log().print(f"{row['candidate']} written to {out}", markup=False)
