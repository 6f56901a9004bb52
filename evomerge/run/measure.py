"""What is measured of the models before a search begins: once, and then kept in its store."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.merging.sources import SourceLibrary
from evomerge.search.strategies import BY_KINSHIP
from evomerge.sensitivity.family import measure_family

if TYPE_CHECKING:
    from evomerge.checkpoints import Checkpoint
    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.loop import Progress
    from evomerge.store.database import RunStore

Gram = tuple[tuple[float, ...], ...]


def will_be_measured(recipe: SearchRecipe) -> list[str]:
    """Say in words what a search measures before it begins."""
    found = []
    if recipe.search.strategy in BY_KINSHIP:
        found.append("kinship of the sources, from their weights")
    return found


def measured_gram(recipe: SearchRecipe, store: RunStore, progress: Progress) -> Gram | None:
    """The inner products of the sources' task vectors; None if the strategy needs none.

    Raises:
        ModelError: A tensor cannot be read, or is not finite.
    """
    if recipe.search.strategy not in BY_KINSHIP:
        return None
    found = store.fact("gram")
    if found is None:
        base, *sources = _models(recipe)
        family = measure_family(
            base, sources, progress=partial(progress.measured, "kinship of the sources")
        )
        found = family.whole().products.tolist()
        store.write_facts({"gram": found})
    return tuple(map(tuple, found))


def _models(recipe: SearchRecipe) -> list[Checkpoint]:
    """The base and the sources of a recipe with absolute paths."""
    library = SourceLibrary(Path("/"))
    return [library.model(recipe.base), *(library.model(s.model or "") for s in recipe.sources)]
