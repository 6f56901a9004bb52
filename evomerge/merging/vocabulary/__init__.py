"""Merging models whose vocabularies differ: tokens are matched by their text."""
