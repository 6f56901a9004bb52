"""Merges by themselves: of recipe files, and those that a run hands out."""
