"""What a user starts: searches, refinements, merges by themselves."""
