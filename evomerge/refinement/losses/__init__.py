"""Losses of rows of logits, with their gradients in closed form; one idea per file."""
