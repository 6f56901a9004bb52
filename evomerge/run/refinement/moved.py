"""Finds what a refinement has written in a run's folder again after the folder was moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.recipe.absolute import with_references
from evomerge.run.folder import RunFolder

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe


def found_again(recipe: MergeRecipe, run: Path) -> MergeRecipe:
    """A candidate's recipe, where what has been refined is looked for in the run's folder.

    Args:
        recipe: As the run's store has it, with the paths of where the run was then.
        run: Where it is now.
    """
    kept = RunFolder(run.resolve()).refined

    def change(reference: str) -> str:
        base, plus, model = reference.rpartition("+")
        parts = Path(model).parts
        if kept.name not in parts or Path(model).exists():
            return reference
        last = len(parts) - 1 - parts[::-1].index(kept.name)
        here = kept.joinpath(*parts[last + 1 :])
        return f"{base}{plus}{here}" if here.exists() else reference

    return with_references(recipe, change)
