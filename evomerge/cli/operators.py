"""`evomerge operators`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from evomerge.operators.parameters import Parameter
    from evomerge.operators.registry import Operator


@click.command()
@click.argument("name", required=False)
def operators(name: str | None) -> None:
    """List the merge operators, or describe the one called NAME: parameters, ranges, source."""
    from rich.markup import escape
    from rich.table import Table

    from evomerge.cli.console import out
    from evomerge.operators.registry import find_operator
    from evomerge.operators.registry import operators as known

    table = Table(box=None, header_style="bold", pad_edge=False)
    if name is None:
        for heading in ("operator", "sources", "what it does"):
            table.add_column(heading, no_wrap=heading != "what it does")
        for operator in known().values():
            table.add_row(operator.name, _sources(operator), escape(operator.summary))
        out().print(table)
        return
    operator = find_operator(name)
    out().print(f"{operator.name}: {operator.summary}", markup=False)
    takes = _sources(operator)
    out().print(f"takes {takes} source{'' if takes == '1' else 's'}", markup=False)
    out().print(f"\n{operator.citation}\n", markup=False)
    for heading in ("parameter", "for", "allowed", "default", "searched"):
        table.add_column(heading)
    for parameter in operator.parameters.values():
        table.add_row(*map(escape, _describe(parameter)))
    out().print(table)


def _sources(operator: Operator) -> str:
    least, most = operator.sources
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _describe(parameter: Parameter) -> tuple[str, ...]:
    allowed = str(parameter.interval) if parameter.interval else ", ".join(parameter.choices)
    default = "must be given" if parameter.default is None else str(parameter.default)
    return (
        parameter.name,
        "each source" if parameter.per_source else "all",
        allowed or "true, false",
        default.lower() if isinstance(parameter.default, bool) else default,
        str(parameter.search or ""),
    )
