"""Ends a command that is asked to end, once, so that it can tidy up."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]

PATIENCE = 5.0
"""Seconds in which a signal that repeats the first one does not disturb the tidying up."""

AGAIN_S = 0.01
"""Seconds until what could not be interrupted is interrupted again."""


class Stopping:
    """Turns the signals that ask a process to end into one KeyboardInterrupt.

    Attributes:
        signal: The first signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._last = 0.0

    def install(self) -> None:
        """Handle the signals from now on; those that are ignored, as by nohup, stay so."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._again)
        sys.unraisablehook = self._unraisable

    def finish(self) -> int:
        """Ignore what still comes, and return the code that a shell gives such an end."""
        for number in (*SIGNALS, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        return 128 + (self.signal or signal.SIGINT)

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        # A fork, for one, has hooks; what a signal raises in them goes no further.
        if found.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            sys.__unraisablehook__(found)

    def _again(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's)
        raise KeyboardInterrupt

    def _stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's)
        # Terminals and supervisors send a signal twice; the second would cut the tidying up.
        if self.signal is not None and time.monotonic() - self._last < PATIENCE:
            return
        if self.signal is None:
            # Not by the console, which may be in the middle of a line of its own.
            with suppress(OSError):
                os.write(2, b"\nstopping; what is done is saved first\n")
        self.signal = self.signal or signum
        self._last = time.monotonic()
        raise KeyboardInterrupt
