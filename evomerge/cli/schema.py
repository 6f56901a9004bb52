"""`evomerge schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from evomerge.recipe.schema import Strict


@click.command()
@click.argument("kind", type=click.Choice(["search", "merge", "refine"]), default="search")
def schema(kind: str) -> None:
    """Print the JSON Schema of search, merge or refine recipes, for editors."""
    from evomerge.cli.console import print_json
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.refine import Refinement
    from evomerge.recipe.search import SearchRecipe

    models: dict[str, type[Strict]] = {
        "search": SearchRecipe,
        "merge": MergeRecipe,
        "refine": Refinement,
    }
    print_json(models[kind].model_json_schema())
