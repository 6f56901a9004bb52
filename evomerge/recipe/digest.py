"""The identity of a merge recipe: blake3 of its canonical JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.recipe.lineage import NESTED

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
    return recipe.digest


def digest_of(recipe: MergeRecipe) -> str:
    """Work out the digest, which a recipe then keeps."""
    document = recipe.model_dump(mode="json", exclude_defaults=True, exclude={**NESTED})
    document["version"] = recipe.version
    for entry, source in zip(document["sources"], recipe.sources, strict=True):
        if source.recipe is not None:
            entry["candidate"] = source.recipe.digest
    if recipe.base_recipe is not None:
        document["base_recipe"] = recipe.base_recipe.digest
    return blake3(canonical_json(document).encode()).hexdigest()
