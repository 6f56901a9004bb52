"""Procedures that run a model while it is merged: learned weights and masks, closed forms."""
