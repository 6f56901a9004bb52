"""Which of our words mergekit knows by another name."""

from __future__ import annotations

OPERATORS = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp")
"""Operators with the same name and meaning in mergekit."""

TO_MERGEKIT = {"scale": "lambda"}

RESCALE_TO_MERGEKIT = {"density": True, "norm": True, "none": False}
RESCALE_FROM_MERGEKIT = {True: "norm", False: "none"}
