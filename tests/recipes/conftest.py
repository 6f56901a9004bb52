"""Lets tests import the quickstart's modules, which are scripts and not a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "quickstart"))
