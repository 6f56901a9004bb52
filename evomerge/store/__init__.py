"""The run store: one SQLite file that holds all of a run's state."""
