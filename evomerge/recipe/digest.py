"""The identity of a merge recipe: blake3 of its canonical JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe


def canonical_json(document: Any) -> str:
    """Write a JSON document so that equal documents give equal text."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(recipe: MergeRecipe) -> str:
    """The content digest of a recipe, 64 hexadecimal digits.

    Defaults are left out, so a later version may add fields without changing old digests. A
    nested recipe counts by its digest, so writing it in full or by digest is the same.
    """
    document = recipe.model_dump(
        mode="json",
        exclude_defaults=True,
        exclude={"base_recipe": True, "sources": {"__all__": {"recipe"}}},
    )
    document["version"] = recipe.version
    for entry, source in zip(document["sources"], recipe.sources, strict=True):
        if source.recipe is not None:
            entry["candidate"] = digest(source.recipe)
    if recipe.base_recipe is not None:
        document["base_recipe"] = digest(recipe.base_recipe)
    return blake3(canonical_json(document).encode()).hexdigest()
