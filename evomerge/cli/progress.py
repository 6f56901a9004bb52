"""Progress of a search: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evomerge.cli.console import log
from evomerge.evaluation.scores.outcome import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from evomerge.store.records import Entry

PLAIN_INTERVAL_S = 30.0


class SearchProgress:
    """Shows how many candidates are done, the best score, the pace and the failures."""

    def __init__(self) -> None:
        self._console = log()
        self._best: float | None = None
        self._done = self._failed = 0
        self._started = time.monotonic()
        self._last_line = -PLAIN_INTERVAL_S
        self._measuring: str | None = None
        self._before = 0
        self._bar = Progress(
            TextColumn("{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=None, stage="searching")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def measured(self, what: str, done: int, total: int) -> None:
        """Show how much of what is measured before the search is done."""
        if self._console.is_terminal:
            text = f"not yet, measuring the {what}"
            self._bar.update(self._task, description=text, completed=done, total=total)
        elif what != self._measuring:
            self._console.print(f"measuring the {what}", markup=False)
        self._measuring = what
        # The pace is that of candidates.
        self._started = time.monotonic()

    def evaluated(self, entry: Entry, total: int) -> None:
        """Show one more candidate."""
        self._done += 1
        self._failed += isinstance(entry.outcome, Failed)
        if entry.fitness is not None:
            self._best = entry.fitness if self._best is None else max(self._best, entry.fitness)
        number = entry.candidate.number + 1
        self._bar.update(self._task, description=self._summary(), completed=number, total=total)
        if not self._console.is_terminal:
            self._print_line(number, total)

    def known(self, entries: Sequence[Entry]) -> None:
        """Start from the best score of what an earlier process has stored."""
        self._best = max((e.fitness for e in entries if e.fitness is not None), default=None)

    def compared(self, done: int, total: int, on: str) -> None:
        """Show how many finalists have been scored on items that the others do not see."""
        if self._console.is_terminal:
            text = f"finalists on {on}, {self._summary()}"
            self._bar.reset(self._task, description=text, completed=done, total=total)
        elif done in {0, total}:
            self._console.print(f"finalists on {on}: {done}/{total}", markup=False)

    def refined(self, what: str, done: int, total: int) -> None:
        """Show how far the refinement is."""
        if self._console.is_terminal:
            self._bar.reset(
                self._task, description=what, completed=done, total=total, stage="refining"
            )
        else:
            self._print_refined(what, done, total)
        self._measuring = what

    def _print_refined(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._measuring:
            self._started, self._before, self._last_line = now, done, now
            self._console.print(f"{what}: {done}/{total}", markup=False)
        elif done == total or now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            each = (now - self._started) / max(done - self._before, 1)
            left = f"{(total - done) * each:.0f} s left"
            self._console.print(f"{what}: {done}/{total}, {left}", markup=False)

    def _print_line(self, number: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_line >= PLAIN_INTERVAL_S or number == total:
            self._last_line = now
            left_s = (total - number) * self._seconds_each()
            self._console.print(f"{number}/{total} {self._summary()}, {left_s:.0f} s left")

    def _summary(self) -> str:
        best = "none yet" if self._best is None else f"{self._best:.3f}"
        pace = 3600 / self._seconds_each()
        return f"best {best}, {pace:.0f} candidates/h, {self._failed} failed"

    def _seconds_each(self) -> float:
        return max(time.monotonic() - self._started, 1e-9) / max(self._done, 1)
