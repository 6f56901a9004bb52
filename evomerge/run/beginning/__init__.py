"""What a search begins with: what is measured, what was known before, the strategy."""
