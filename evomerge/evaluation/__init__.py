"""From a model to a score per item: tasks, splits, forward passes and statistics."""
