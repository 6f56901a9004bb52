"""`evomerge inspect`."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

NAME_WIDTH = 26
MOST_PAIRS = 8
"""Pairs of sources whose conflict is shown on a terminal, the worst first."""


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--base", help="The model that all descend from; adapters tell it themselves.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save figures here, as SVG.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(
    models: tuple[str, ...], base: str | None, folder: Path | None, *, as_json: bool
) -> None:
    """Tell what to expect of merging MODELS: folders, Hub ids or BASE+ADAPTER.

    Weights are read once, and no model is run. Exits with 2 if the models do not fit together.
    """
    from evomerge.checkpoints import named_errors
    from evomerge.cli.console import log, out, print_json
    from evomerge.cli.counter import counting
    from evomerge.reporting.inspection import inspect_models

    if folder:
        with named_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with counting("reading weights") as progress:
        document = inspect_models(models, base, Path.cwd(), progress)
    if folder:
        _save(document, folder)
        log().print(f"figures written to {folder}", markup=False)
    if as_json:
        print_json(document)
    else:
        show(document, out())
    if any(finding["severity"] == "error" for finding in document["findings"]):
        raise click.exceptions.Exit(2)


def _save(document: dict[str, Any], folder: Path) -> None:
    from evomerge.checkpoints import named_errors, write_atomically
    from evomerge.reporting.inspection import figures

    with named_errors(folder):
        for name, svg in figures(document).items():
            write_atomically(folder / name, svg.encode())


def show(document: dict[str, Any], console: Console) -> None:
    """Print an inspection for people."""
    for finding in document["findings"]:
        remedy = f"; {finding['remedy']}" if finding["remedy"] else ""
        console.print(
            f"{finding['severity']}: {finding['where']}: {finding['message']}{remedy}",
            markup=False,
            style="red" if finding["severity"] == "error" else "yellow",
        )
    if document["findings"]:
        console.print()
    console.print(_sources_table(document, console.width))
    for lines in (_norm_rows(document, console.width), _conflict_rows(document, console.width)):
        console.print()
        for line in lines:
            console.print(line, markup=False, no_wrap=True)
    console.print(f"columns: {_columns(document)}", markup=False)
    console.print()
    console.print("what to expect", style="bold")
    for sentence in document["expectations"] or ["Nothing unusual."]:
        console.print(f"- {sentence}", markup=False)


def _sources_table(document: dict[str, Any], width: int) -> Table:
    """How far each source moved, and its kinship with all others or, if too many, the closest."""
    from rich.markup import escape
    from rich.table import Table

    from evomerge.reporting.inspection import signed

    sources = document["sources"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("source", no_wrap=True)
    numbers = [f"[{number + 1}]" for number in range(len(sources))]
    is_roomy = NAME_WIDTH + 18 + 6 * len(sources) <= width
    for heading in ("moved", "changed", *(numbers if is_roomy else ("closest", "kinship"))):
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for number, (source, kinship) in enumerate(zip(sources, document["cosine"], strict=True)):
        cells = [signed(value) for value in kinship]
        if not is_roomy:
            others = [other for other in range(len(sources)) if other != number]
            closest = max(others, key=kinship.__getitem__)
            cells = [escape(numbers[closest]), cells[closest]]
        table.add_row(
            escape(_fit(f"{numbers[number]} {source['name']}")),
            f"{source['relative_norm']:.2%}",
            f"{source['changed']:.0%}",
            *cells,
        )
    return table


def _norm_rows(document: dict[str, Any], width: int) -> Iterator[str]:
    layers = document["layers"]
    top = max(max(layer["relative_norm"]) for layer in layers)
    yield f"moved, by layer (█ is {top:.2%} of the base's norm, · unchanged)"
    rows = {
        f"[{i + 1}] {source['name']}": [layer["relative_norm"][i] for layer in layers]
        for i, source in enumerate(document["sources"])
    }
    yield from _heat_rows(document, rows, top, width)


def _conflict_rows(document: dict[str, Any], width: int) -> Iterator[str]:
    from evomerge.reporting.inspection import conflict_of

    def worst_layer(pair: tuple[int, int]) -> float:
        return max((conflict_of(layer, *pair) or 0 for layer in document["layers"]), default=0)

    count = len(document["sources"])
    pairs = sorted(combinations(range(count), 2), key=worst_layer, reverse=True)
    if not pairs:
        return
    shown = f", the worst {MOST_PAIRS} of {len(pairs)} pairs" if len(pairs) > MOST_PAIRS else ""
    yield f"conflict, by layer (█ is all opposed, ▄ chance, · nothing shared{shown})"
    rows = {
        f"[{i + 1}] / [{j + 1}]": [conflict_of(layer, i, j) or 0 for layer in document["layers"]]
        for i, j in pairs[:MOST_PAIRS]
    }
    yield from _heat_rows(document, rows, 1.0, width)


def _heat_rows(
    document: dict[str, Any], rows: dict[str, list[float]], top: float, width: int
) -> Iterator[str]:
    from evomerge.reporting.blocks import axis, block_row

    left = min(NAME_WIDTH, max(map(len, rows))) + 2
    for name, values in rows.items():
        yield f"{_fit(name):{left}}{block_row(values, top, width - left)}"
    labels = [layer["layer"] for layer in document["layers"]]
    yield " " * left + axis(labels, width - left)


def _columns(document: dict[str, Any]) -> str:
    """What the columns of the heat rows are: `embed_tokens, layers 0-29, norm`."""
    labels = [layer["layer"] for layer in document["layers"]]
    numbers = [label for label in labels if label.isdecimal()]
    if not numbers:
        return ", ".join(labels)
    first = labels.index(numbers[0])
    others = [label for label in labels[first:] if not label.isdecimal()]
    return ", ".join([*labels[:first], f"layers {numbers[0]}-{numbers[-1]}", *others])


def _fit(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
