"""Teachers with other tokenizers: what of their predictions a student can learn, and where."""
