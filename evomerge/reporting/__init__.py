"""Views of a run for people and for programs. They read the store and change nothing."""
