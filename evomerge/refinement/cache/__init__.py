"""What teachers predict, on disk."""
