"""From a recipe to everything a run needs, checked before any work is done."""
