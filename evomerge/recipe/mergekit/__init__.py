"""Interchange with mergekit 0.1.5 YAML, for the operators that both have."""
