"""Candidates are asked for, evaluated, stored and told."""
