"""Splits a lineage into merges of models, which mergekit makes one after the other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.recipe.digest import digest

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe, Source

NAME = re.compile(r"stage-[0-9a-f]{12}")
"""The names of stages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One merge of a lineage.

    Attributes:
        name: What later stages call its result; None for the last stage.
        path: Where it stands in the recipe, e.g. `sources.0.recipe`; empty for the last stage.
        recipe: The merge; results of earlier stages are models in it.
    """

    name: str | None = None
    path: str = ""
    recipe: MergeRecipe


def stages(recipe: MergeRecipe) -> list[Stage]:
    """Split a recipe so that every merge in it is made once, after those that it needs."""
    found: dict[str, Stage] = {}
    last = _of_models(recipe, "", found)
    return [*found.values(), Stage(recipe=last)]


def _of_models(recipe: MergeRecipe, path: str, found: dict[str, Stage]) -> MergeRecipe:
    update: dict[str, object] = {}
    if recipe.base_recipe is not None:
        name = _made_before(recipe.base_recipe, f"{path}base_recipe", found)
        update = {"base": name, "base_recipe": None}
    update["sources"] = tuple(
        _as_model(source, f"{path}sources.{index}.recipe", found)
        for index, source in enumerate(recipe.sources)
    )
    return recipe.model_copy(update=update)


def _as_model(source: Source, path: str, found: dict[str, Stage]) -> Source:
    if source.recipe is None:
        return source
    name = _made_before(source.recipe, path, found)
    # Its label stays: a stack names its sources by it.
    return source.model_copy(update={"model": name, "recipe": None, "name": source.label})


def _made_before(recipe: MergeRecipe, path: str, found: dict[str, Stage]) -> str:
    name = f"stage-{digest(recipe)[:12]}"
    if name not in found:
        flat = _of_models(recipe, f"{path}.", found)
        found[name] = Stage(name=name, path=path, recipe=flat)
    return name
