"""What a teacher predicts of a text's tokens, as far as it is kept."""
