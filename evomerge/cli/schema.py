"""`evomerge schema`."""

from __future__ import annotations

import click


@click.command()
@click.argument("kind", type=click.Choice(["search", "merge"]), default="search")
def schema(kind: str) -> None:
    """Print the JSON Schema of search or merge recipes, for editors."""
    from evomerge.cli.console import print_json
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.search import SearchRecipe

    print_json((SearchRecipe if kind == "search" else MergeRecipe).model_json_schema())
