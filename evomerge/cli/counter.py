"""A bar for long work of known size; on a terminal only, and gone when the work is done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from evomerge.cli.console import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def counting(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; yields what is to be told how much is done, and of how much."""
    console = log()
    columns = (TextColumn(text), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
