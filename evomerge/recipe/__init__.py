"""Recipes: what is merged and how, as data."""
