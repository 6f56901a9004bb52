"""The texts that a student learns from: read, tokenised, put side by side."""
