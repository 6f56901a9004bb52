"""Merge operators: pure functions on stacked tensors, one file per method.

Importing this package does not import torch; the method files are imported when the registry is
first asked for an operator.
"""
