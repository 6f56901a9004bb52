"""Evolutionary search for the best merge of fine-tuned language models.

The names below are the public API; they are imported when they are first used, so that
`import evomerge` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.errors import EvomergeError
    from evomerge.merging.export import export_checkpoint
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.digest import digest
    from evomerge.recipe.load import load
    from evomerge.recipe.merge import MergeRecipe, Rule, Source
    from evomerge.recipe.search import SearchRecipe
    from evomerge.reporting.leaderboard import leaderboard
    from evomerge.run.search import resume, start_or_continue
    from evomerge.store.database import RunStore

__version__ = "0.1.0"

__all__ = [
    "EvomergeError",
    "MergeRecipe",
    "Rule",
    "RunStore",
    "SearchRecipe",
    "Source",
    "SourceLibrary",
    "digest",
    "export_checkpoint",
    "leaderboard",
    "load",
    "resume",
    "start_or_continue",
]

_HOMES = {
    "EvomergeError": "evomerge.errors",
    "MergeRecipe": "evomerge.recipe.merge",
    "Rule": "evomerge.recipe.merge",
    "RunStore": "evomerge.store.database",
    "SearchRecipe": "evomerge.recipe.search",
    "Source": "evomerge.recipe.merge",
    "SourceLibrary": "evomerge.merging.sources",
    "digest": "evomerge.recipe.digest",
    "export_checkpoint": "evomerge.merging.export",
    "leaderboard": "evomerge.reporting.leaderboard",
    "load": "evomerge.recipe.load",
    "resume": "evomerge.run.search",
    "start_or_continue": "evomerge.run.search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
