"""`evomerge check`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--print", "as_recipe", is_flag=True, help="Print it as a recipe of ours, for any folder."
)
def check(recipe: Path, overrides: tuple[str, ...], *, as_json: bool, as_recipe: bool) -> None:
    """Check a search RECIPE, its models and its tasks, without loading a weight.

    Every finding is shown at once. Exits with 2 if any of them is an error.
    """
    from dataclasses import asdict

    from evomerge.cli.console import log, out, print_json
    from evomerge.recipe.dump import search_to_yaml
    from evomerge.run.beginning.creation import begin
    from evomerge.run.beginning.measure import will_be_measured
    from evomerge.run.beginning.warm_start import WHERE
    from evomerge.run.preparation.prepare import check_search, describe
    from evomerge.run.preparation.search_file import read_search

    if as_json and as_recipe:
        raise click.UsageError("--json and --print exclude each other")
    read = read_search(recipe, overrides)
    result = check_search(read.recipe, read.root)
    search = result.search
    beginning = search and result.attempt(WHERE, lambda: begin(search))
    findings = [*result.findings, *(beginning.findings if beginning else ())]
    if as_json:
        print_json({"version": 1, "findings": [asdict(finding) for finding in findings]})
    for note in () if as_json else read.notes:
        log().print(f"note: {note}", markup=False)
    for finding in () if as_json else findings:
        log().print(f"{finding.severity}: {describe(finding)}", markup=False)
    if search is None or result.errors:
        raise click.exceptions.Exit(2)
    if as_recipe:
        out().print(search_to_yaml(search.recipe), end="", markup=False, soft_wrap=True)
    elif not as_json:
        genes = len(search.genome.genes)
        models = 1 + len(search.recipe.sources)
        out().print(f"{recipe}: can be searched; {genes} genes, {models} models", markup=False)
        for what in will_be_measured(search.recipe):
            out().print(f"measured before the search: {what}", markup=False)
