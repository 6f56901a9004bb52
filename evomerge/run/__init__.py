"""Runs a search from its recipe: the loop, resuming, the finish."""
