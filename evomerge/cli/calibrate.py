"""`evomerge calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

METHODS = """\
\b
Methods:
  adamerging           learns coefficients by entropy or loss; OUT is a recipe
  supermerge           learns coefficients by loss; OUT is a recipe
  featcal              fits layers to the sources' features; OUT is a model
  prodistill           learns each entry's coefficient by layers; OUT is a model
  regmean_plus_plus    solves layers one after the other; OUT is a model
  localize_and_stitch  learns where each source's skill is; OUT is a model
"""


@click.command(epilog=METHODS)
@click.argument("method")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the method.",
)
def calibrate(method: str, recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Improve the merge of RECIPE with its calibration texts, by METHOD, into OUT."""
    from evomerge.cli.console import log
    from evomerge.cli.counter import counting
    from evomerge.run.merges.calibrate import calibrate_file

    with counting(method) as progress:
        notes = calibrate_file(method, recipe, out, overrides, progress)
    for note in notes:
        log().print(f"note: {note}", markup=False)
    log().print(f"written to {out}", markup=False)
