"""Paths in recipes start from the recipe's folder."""

from __future__ import annotations

from pathlib import Path


def absolute(path: str, root: Path) -> str:
    """The same path from anywhere.

    Args:
        path: As it stands in the recipe.
        root: The folder that it starts from, if it is relative.
    """
    return str(Path(root, Path(path).expanduser()).resolve())
