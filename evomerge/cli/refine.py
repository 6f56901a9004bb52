"""`evomerge refine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
@click.argument("student")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="How to refine, as under refine: of a search recipe; that of a run when absent.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."
)
@click.option(
    "--estimate", is_flag=True, help="Say what the teachers' cache would hold, and stop."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the refined model into this folder; a run's can be exported later as well.",
)
def refine(
    student: str,
    recipe: Path | None,
    overrides: tuple[str, ...],
    estimate: bool,  # noqa: FBT001
    out: Path | None,
) -> None:
    """Distil teachers into STUDENT: the winner of a run, a model, or the merge of a recipe file.

    The refined model of a run is its winner if it is no worse on the items that choose. A model
    by itself is refined until texts that are set aside gain no more; it needs --out.
    """
    from evomerge.checkpoints import check_output_folder
    from evomerge.cli.console import out as console
    from evomerge.errors import RunError
    from evomerge.run.folder import RunFolder

    run = Path(student)
    if out is not None and not estimate:
        check_output_folder(out)
    if RunFolder(run).database.exists():
        _refine_run(run, recipe, overrides, estimate=estimate, out=out)
        return
    if recipe is None:
        raise RunError(f"{student}: is no run folder; a model is refined with --recipe FILE")
    if estimate:
        from evomerge.run.refine_model import estimate_model

        for line in estimate_model(student, recipe, overrides):
            console().print(line, markup=False)
        return
    if out is None:
        raise click.UsageError("where is the refined model to be written? give --out FOLDER")
    _refine_model(student, recipe, overrides, out)


def _refine_model(student: str, recipe: Path, overrides: tuple[str, ...], out: Path) -> None:
    from evomerge.cli.console import doubt_in_words, log
    from evomerge.cli.console import out as console
    from evomerge.cli.progress import SearchProgress
    from evomerge.run.refine_model import refine_model

    try:
        with SearchProgress() as progress:
            refined = refine_model(student, recipe, overrides, out, progress.refined)
    except KeyboardInterrupt:
        log().print("\nStopped, and saved: the same command goes on from here", markup=False)
        raise
    for name, course in refined.courses.items():
        for line in (_in_words(course), *doubt_in_words(course)):
            console().print(f"{name}: {line}", markup=False)
    console().print(
        f"written to {out}; its recipe is rebuilt from what was trained, in {refined.training}",
        markup=False,
    )


def _refine_run(
    run: Path,
    recipe: Path | None,
    overrides: tuple[str, ...],
    *,
    estimate: bool,
    out: Path | None,
) -> None:
    from evomerge.cli.search import work
    from evomerge.run.refine_run import estimate_run, refine_run

    if estimate:
        from evomerge.cli.console import out as console

        for line in estimate_run(run, recipe, overrides):
            console().print(line, markup=False)
        return
    work(run, lambda progress, warn: refine_run(run, recipe, overrides, progress, warn))
    if out is not None:
        from evomerge.cli.export import write

        write(run, "winner", "checkpoint", out)


def _in_words(course: Mapping[str, Any]) -> str:
    if "losses" not in course:
        return "its layers were fitted to those of the sources"
    losses = course["validation_losses"]
    if not losses:
        return "no text was set aside, so nothing tells whether it is better"
    best = min(losses)
    if best == losses[0]:
        return f"the loss on the texts set aside did not fall ({best:.4f}): it is as it was"
    read = f"{course['tokens']:,} tokens were read"
    return f"the loss on the texts set aside fell from {losses[0]:.4f} to {best:.4f}; {read}"
