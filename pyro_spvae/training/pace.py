# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Lines about work that takes long, where no progress bar shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0  # seconds without a line
_LATE = 10.0  # further seconds in which work that counts its rows may say how far it came
_LEAST = 0.01  # seconds between two looks at the clock

clock = time.monotonic


class Pace:
    """
    Says that work goes on, when nothing was said for thirty seconds.

    :param callable report: takes lines of text.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = clock()
        self._counted = ""  # how far work came by its own last word
        self._one = threading.Lock()  # of two threads that tell

    @property
    def silent_for(self) -> float:
        """Seconds since something was said."""
        return clock() - self._last

    def said(self) -> None:
        """Call when something was said otherwise, or nothing was to be said until now."""
        self._last = clock()

    def tell(self, line: Callable[[], str], late: float = 0.0) -> None:
        """
        Reports a line if it is time for one.

        :param callable line: makes it.
        :param float late: how many seconds later than usual.
        """
        with self._one:
            if self.silent_for >= EVERY + late:
                self._report(line())
                self.said()

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """
        Inside, another thread says that work goes on which cannot say how far it came, or not often enough: ten seconds
        later than work would that counts its rows, and with what was counted last.

        :param str what: is being done.
        """
        start, over = clock(), threading.Event()
        self._counted = ""

        def watch() -> None:
            while not over.wait(max(EVERY + _LATE - self.silent_for, _LEAST)):
                self.tell(lambda: f"{what:<12}{self._counted}{minutes(clock() - start)} so far", _LATE)

        watcher = threading.Thread(target=watch, name=f"pace of {what}", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def counting(self, what: str, of: str = "rows") -> Callable[[int, int], None]:
        """
        A function to be called now and then with how many rows are done, and of how many.

        :param str what: is done with them.
        :param str of: what they are, if not rows.
        """
        start = clock()

        def tick(done: int, rows: int) -> None:
            left = (clock() - start) * (rows - done) / max(done, 1)
            self._counted = f"{done:,} of {rows:,} {of}, "
            self.tell(lambda: f"{what:<12}{done:,} of {rows:,} {of}, {minutes(left)} left")

        return tick


def minutes(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
