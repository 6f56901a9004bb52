"""Logit distillation of a merge: what teachers predict is written down and learned from."""
