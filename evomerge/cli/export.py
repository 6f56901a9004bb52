"""`evomerge export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe


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
@click.option(
    "--verify",
    is_flag=True,
    help="Have mergekit merge what is written for it, and compare every tensor.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="A Python that has mergekit; $EVOMERGE_ORACLE or this one when absent.",
)
@click.pass_context
def export(
    context: click.Context,
    run: Path,
    candidate: str,
    form: str,
    out: Path,
    verify: bool,  # noqa: FBT001
    python: Path | None,
) -> None:
    """Write a CANDIDATE of RUN as a recipe, as mergekit YAML or as a merged model."""
    if verify and form != "mergekit":
        raise click.UsageError("--verify compares with mergekit, so it needs --to mergekit")
    recipe, library = write(run, candidate, form, out)
    if verify and not _compare(recipe, library, python):
        context.exit(1)


def write(run: Path, candidate: str, form: str, out: Path) -> tuple[MergeRecipe, SourceLibrary]:
    """Write a candidate of a run in one of the forms of `--to`."""
    from evomerge.cli.console import log
    from evomerge.cli.leaderboard import read_leaderboard
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.reporting.leaderboard import find_row
    from evomerge.reporting.model_card import model_card
    from evomerge.run.merges.export import export_merged, export_mergekit, export_recipe
    from evomerge.run.refinement.moved import found_again
    from evomerge.sensitivity.provider import Calibrator

    document = read_leaderboard(run)
    row = find_row(document, candidate)
    recipe = found_again(MergeRecipe.model_validate(row["recipe"]), run)
    library = SourceLibrary(Path("/"), calibrate=Calibrator())
    notes: tuple[str, ...] = ()
    if form == "recipe":
        export_recipe(recipe, out)
    elif form == "mergekit":
        notes = export_mergekit(recipe, library, out)
    else:
        export_merged(recipe, library, out, model_card(document, row, recipe))
    for note in notes:
        log().print(f"note: {note}", markup=False)
    log().print(f"{row['candidate']} written to {out}", markup=False)
    return recipe, library


def _compare(recipe: MergeRecipe, library: SourceLibrary, python: Path | None) -> bool:
    """Print how mergekit's tensors compare with ours, and say whether all are equal."""
    from evomerge.cli.console import out
    from evomerge.run.merges.verify import compare_with_mergekit

    compared = compare_with_mergekit(recipe, library, python)
    for each in compared:
        out().print(str(each), markup=False, soft_wrap=True)
    equal = sum(each.is_equal for each in compared)
    furthest = max((each.ulps or 0 for each in compared), default=0)
    rest = "" if equal == len(compared) else f"; at most {furthest} ulps apart"
    out().print(f"{equal} of {len(compared)} tensors equal{rest}", style="bold", markup=False)
    return equal == len(compared)
