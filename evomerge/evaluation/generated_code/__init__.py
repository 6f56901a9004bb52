"""Tasks that run the code that models write, in a sandbox."""
