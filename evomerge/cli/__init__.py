"""The command line: the only room that prints."""

from __future__ import annotations

from evomerge.cli.main import main

__all__ = ["main"]
