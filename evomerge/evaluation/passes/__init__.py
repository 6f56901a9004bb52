"""Forward passes: each token is read once, whoever needs it."""
