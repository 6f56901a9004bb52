"""`evomerge importance`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evomerge.cli.view import view


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def importance(run: Path, *, as_json: bool) -> None:
    """Show which sources, layers and parts of the model the scores of RUN depended on.

    Works while the search runs, too. What was hardly varied shows little, whatever it could do.
    """
    from evomerge.cli.console import out, print_json
    from evomerge.reporting.importance import importance as measure

    document = view(run, measure)
    if as_json:
        print_json(document)
        return
    console = out()
    for line in _lines(document):
        console.print(line, markup=False)


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [
        (
            f"{document['candidates']} offspring; a sum of one quadratic per gene explains "
            f"{document['explained']:.0%} of the variance of scores that it has not seen."
        ),
        "Shares of that variance, with 95 % intervals; * where it is more than chance.",
    ]
    for by, groups in document["groups"].items():
        lines += ["", f"by {by}"]
        ordered = sorted(groups.items(), key=lambda each: -each[1]["share"])
        lines += [f"  {_share(each)}  {name}" for name, each in ordered]
    for gene in document["genes"]:
        if "choices" in gene:
            of = "" if gene["source"] == "all" else f" ({gene['source']})"
            lines += ["", f"by {gene['parameter']}{of}: candidates, their mean score and the best"]
            lines += [f"  {_scores(each)}  {each['choice']}" for each in gene["choices"]]
    lines += ["", "by gene"]
    width = max(len("density"), *(len(gene["parameter"]) for gene in document["genes"]))
    for gene in sorted(document["genes"], key=lambda each: -each["share"]):
        where = f"{gene['source']:<12} layers {gene['layers']:<7} {gene['component']:<10}"
        lines.append(f"  {_share(gene)}  {gene['parameter']:<{width}}  {where}".rstrip())
    return lines


def _scores(choice: dict[str, Any]) -> str:
    if not choice["candidates"]:
        return f"{0:>4} {'':11}"
    return f"{choice['candidates']:>4} {choice['mean']:.3f} {choice['best']:.3f}"


def _share(each: dict[str, Any]) -> str:
    low, high = each["interval"]
    mark = "*" if each["matters"] else " "
    return f"{each['share']:>4.0%} [{low:>4.0%}, {high:>4.0%}] {mark}"
