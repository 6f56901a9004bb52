"""lm-eval's tasks, and the items of a run."""
