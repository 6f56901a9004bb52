"""`python -m evomerge` is the `evomerge` command."""

from __future__ import annotations

from evomerge.cli import main

if __name__ == "__main__":
    main()
