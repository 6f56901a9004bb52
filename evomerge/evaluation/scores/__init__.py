"""Scores: what became of candidates, and what tells them apart."""
