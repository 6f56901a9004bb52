"""From a merge recipe and checkpoints to tensors: a pure plan, one engine, two destinations."""
